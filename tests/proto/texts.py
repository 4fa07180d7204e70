"""Texts on which our reader and C++ must agree: solvers, well-formed and not."""

from __future__ import annotations

LINES = r"""
base_lr: 1
base_lr: 1f
base_lr: 1.5F
base_lr: .5
base_lr: 5.
base_lr: 5.e3
base_lr: 1e5
base_lr: 1E+5
base_lr: 1e-5f
base_lr: +1
base_lr: -1
base_lr: - 1
base_lr: --1
base_lr: 0x10
base_lr: 010
base_lr: 00
base_lr: 0
base_lr: -0
base_lr: 0.0
base_lr: 00.5
base_lr: 01.5
base_lr: 09
base_lr: inf
base_lr: -inf
base_lr: nan
base_lr: -nan
base_lr: INF
base_lr: Infinity
base_lr: infinityf
base_lr: inff
base_lr: 1e400
base_lr: 3.5e38
base_lr: 3.4028235677973366e38
base_lr: 1e-50
base_lr: 99999999999999999999999
base_lr: 1.2.3
base_lr: 1e
base_lr: 1e+
base_lr: 1x
base_lr: "1"
base_lr: true
base_lr: 1 base_lr: 2
base_lr 1
base_lr: 1;
base_lr: 1,
base_lr: 1;;
base_lr: 1,;
; base_lr: 1
base_lr: 1 ; max_iter: 3
base_lr: 1max_iter: 3
base_lr: 1.5max_iter: 3
net: "a"max_iter: 3
net: "a" "b"
net: "a"'b'
net: "a" # c
net: 'it\'s'
net: "\x41\101\n\u00e9\U0001F600"
net: "\u12"
net: "\x"
net: "\q"
net: "\?"
net: "\400"
net: "a
net: "a\
net: abc
net: 3
net: "é"
max_iter: 1.0
max_iter: 1f
max_iter: 0x10
max_iter: 0XfF
max_iter: 0x
max_iter: 0xg
max_iter: 017
max_iter: 019
max_iter: -017
max_iter: -0x10
max_iter: 2147483647
max_iter: 2147483648
max_iter: -2147483648
max_iter: -2147483649
max_iter: 1e3
random_seed: 9223372036854775807
random_seed: 9223372036854775808
random_seed: -9223372036854775808
debug_info: true
debug_info: True
debug_info: t
debug_info: TRUE
debug_info: T
debug_info: f
debug_info: False
debug_info: FALSE
debug_info: 1
debug_info: 0
debug_info: 2
debug_info: 01
debug_info: 0x1
debug_info: -0
debug_info: -1
debug_info: "true"
debug_info: yes
solver_mode: GPU
solver_mode: 1
solver_mode: 2
solver_mode: -1
solver_mode: gpu
solver_mode: "GPU"
solver_mode: 0x1
solver_mode: 01
solver_mode: 1.0
solver_mode: - 1
solver_mode: [GPU]
test_iter: 1 test_iter: 2
test_iter: [1,2]
test_iter: [1, 2,]
test_iter: [1 2]
test_iter: [1;2]
test_iter: []
test_iter: [,]
test_iter: [1
test_iter: [1,2] ; test_iter: 4
test_iter [1,2]
test_iter: [[1]]
test_iter: [# c
test_net: ["a", "b" 'c', "d"]
test_net: ["a]"]
base_lr: [1]
train_state { level: 1 }
train_state: { level: 1 }
train_state: < level: 1 >
train_state < level: 1 }
train_state { level: 1 >
train_state { level: 1
train_state { level: 1 } }
train_state { level: 1 };
train_state { level: 1 }, max_iter: 3
train_state { level: 1; }
train_state { ; }
train_state {} train_state {}
train_state: 3
train_state: "a"
train_state: [{level: 1}]
test_state: [{level: 1}, <level: 2>]
test_state [{level: 1}, {level: 2}]
test_state [{level: 1} {level: 2}]
test_state [{level: 1}, ]
test_state [{level: 1}; {level: 2}]
test_state []
test_state: []
test_state [ {level: 1} ];
test_state [ 1 ]
test_state { stage: ["a", "b"] } test_state: [{}]
}
{
[
]
[a.b]: 3
[a.b] { }
a
3
"x"
:
# only comment
base_lr: # c
base_lr # c
base_lr : 1
base_lr:1
BASE_LR: 1
7: 1
base-lr: 1
net.x: 1
net: "a" net: "b"
foo: 1
foo { bar: 2 }
foo: [1,2]
foo: [{a: 1}]
foo 1
foo: { a 3 }
foo: "a" "b" 'c'
foo: -3
foo: -inf
foo: - x
foo: <>
foo {
foo: 
solver_mode: FOO
test_iter: -1 test_iter: -9
net: ""
net: '' ''
max_iter: 1 # c; x
max_iter: 1/2
max_iter: 1 /* c */
max_iter: 1 // c
base_lr: 1e5e5
base_lr: .
base_lr: -.5
base_lr: -
max_iter: -
net: -"a"
debug_info: t rue
lr_policy: "é" net: 'ü'
""".strip("\n").split("\n")

MORE = [
    r'net: "\ud83d\uDE00 \U00010ffff"',
    "",
    "base_lr: -# c\n1",
    "max_iter\n:\n3",
    "max_iter#c\n:#d\n3",
    "max_iter: -#c\n3",
    'net: "a"#c\n"b"',
    "train_state#c\n{}",
    "train_state:#c\n{}",
    "test_iter: [1,#c\n2]",
    "max_iter: 3\r\nbase_lr: 1\r\n",
    "max_iter: 3\x0bbase_lr: 1\x0c",
    "max_iter: 3\x00",
    "max_iter: 3\xa0",
    "max_iter:\u20033",
    "max_iter: 3\x1a",
    "# \udcff c\nmax_iter: 3",
    'net: "\x01\x7f\t"',
    'net: "a\rb"',
    "base_lr: 1\n#",
    "max_iter: 3#",
    'net: "#"',
    'net: "a\\"#"',
]
