"""LayerType, the base of layer types: all about a type but its arithmetic. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffeio._lazy import lazy_names
from caffeio.errors import LayerError, UnsupportedError
from caffeio.profiles import BVLC, Profile

MAX_AXES, MAX_COUNT = 32, 2**31 - 1  # of a blob

if TYPE_CHECKING:
    from caffeio.boost_random import CaffeRng
    from caffeio.layers.onnx.graph import OnnxGraph
    from caffeio.proto.caffe_pb2 import FillerParameter, LayerParameter

Shape = tuple[int, ...]

ENGINE_CHOICES = frozenset(  # fields that choose an implementation, not a result
    ("engine", "cudnn_convolution_algo_seeker", "conv_algos_override", "cudnn_flavor",
     "conv_algorithm", "force_nd_im2col", "torch_pooling", "fuse", "random_seed")
)  # fmt: skip
SAME_AGAIN = ("constant", "bilinear")  # fillers that draw nothing: what they make can be meant


@dataclass(frozen=True)
class Count:
    """How many bottoms or tops a layer takes: at least `low`, at most `high` (None: no limit)."""

    low: int
    high: int | None

    def __str__(self) -> str:
        if self.high is None:
            return f"at least {self.low}"
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"

    def __contains__(self, n: int) -> bool:
        return n >= self.low and (self.high is None or n <= self.high)


def exactly(n: int) -> Count:
    """Count `n` blobs, no more and no fewer."""
    return Count(n, n)


def at_least(n: int) -> Count:
    """Count `n` blobs or more."""
    return Count(n, None)


def between(low: int, high: int) -> Count:
    """Count from `low` to `high` blobs, both included."""
    return Count(low, high)


def owns(**messages: Collection[str] | None) -> Mapping[str, Collection[str] | None]:
    """Name the messages of LayerParameter that belong to a type, and the fields it knows of each.

    None stands for all fields.
    """
    return messages


@dataclass(frozen=True)
class LayerContext:
    """What a layer may know of the net that it stands in."""

    phase: str = "TEST"  # of this layer: "TRAIN" or "TEST"
    profile: Profile = BVLC
    where: str = ""  # "file:line:column" of the layer, for messages
    bottom_names: tuple[str, ...] = ()
    top_names: tuple[str, ...] = ()  # automatic tops of losses included
    allow_python: bool = False  # may `type: "Python"` run code that the prototxt names?
    search_path: tuple[str, ...] = ()  # folders in which relative paths are looked up, in order


@dataclass
class BlobSpec:
    """A learnable blob as the layer declares it in `setup`."""

    name: str
    shape: Shape
    filler: FillerParameter | None
    default: float = 0.0  # constant value where no filler is given
    statistic: bool = False  # never trained (BatchNorm's mean, variance, factor)
    initial: Any = None  # values in place of a filler's: given in the text, or by a Python layer
    kept_shape: Shape | None = None  # in which the text gives it, and files have it, if another


FOREIGN_FIELD = "is a fork's field that is not supported"


class LayerType:
    """One Caffe layer: its parameters, the shapes of its tops and blobs, its ONNX form.

    A subclass says how many bottoms and tops it takes and which fields it knows, reads its
    parameters and declares its blobs in `setup`, and gives the shapes of its tops in `shapes`.
    `compute` names the function that calculates: it is imported when a net runs, gets the layer
    (then a torch module with the blobs) and the bottoms, and returns the top, or a tuple of tops.
    Gradients are autograd's unless Caffe's differ. Blobs keep Caffe's order, layout and shape.
    Dimensions that nobody knows yet calculate as `caffeio.layers.dims.ANY`.
    """

    bottoms: ClassVar[Count] = exactly(1)
    tops: ClassVar[Count] = exactly(1)
    equal_bottoms_tops: ClassVar[bool] = False  # one top for each bottom (Convolution)
    is_loss: ClassVar[bool] = False  # loss_weight 1 by default, an automatic top if none is named
    is_source: ClassVar[bool] = False  # makes data (Data, Input, ...): takes no bottoms
    is_data: ClassVar[bool] = False  # a source that makes its values; an Input's are given
    is_metric: ClassVar[bool] = False  # measures or stores what a net for use has no need of
    may_end: ClassVar[bool] = False  # nobody has to read its tops (detections)
    reads_loss_param: ClassVar[bool] = False  # a loss that loss_param (normalization) changes
    predicts: ClassVar[str] = ""  # of a loss: the type whose top its predictions are (Softmax)
    family: ClassVar[str] = "other"  # what drawings colour alike: conv, pool, norm, join, other
    short_type: ClassVar[str] = ""  # what narrow tables call it; empty: by its name
    fills_once: ClassVar[bool] = False  # a source that fills its constants once, before all passes
    reads_data: ClassVar[bool] = False  # a source whose shapes are those of what it reads
    differentiable: ClassVar[bool] = True  # False: bottoms never get a gradient (Accuracy, ArgMax)
    label_bottoms: ClassVar[frozenset[int]] = frozenset()  # bottoms that cannot get a gradient
    in_place: ClassVar[bool] = True  # may a top be the bottom of the same index?
    # Bottoms that `force_backward` does not force a gradient on; None: bottom 1, if it is a loss.
    unforced_bottoms: ClassVar[frozenset[int] | None] = None
    learns_all: ClassVar[bool] = False  # gradients of all blobs, whatever their lr_mult is
    # Backward computes gradients of bottoms only where propagate_down asks for them.
    heeds_propagate_down: ClassVar[bool] = True
    shape_only_last: ClassVar[bool] = False  # of its last bottom it reads the shape alone (Crop)
    dynamic: ClassVar[bool] = False  # tops change their shape with the data (detections, filters)
    runs_code: ClassVar[bool] = False  # nobody knows the shapes but the code that the net names
    # The messages of LayerParameter that belong to the type, and the fields that it knows; None:
    # all of them. A field that is not known is refused, not passed over.
    fields: ClassVar[Mapping[str, Collection[str] | None]] = {}
    has_blobs: ClassVar[bool] = False  # may it have learnable blobs?
    # The blobs' names in a state_dict, where those are PyTorch's and not the ones of `add_blob`.
    blob_names: ClassVar[tuple[str, ...]] = ()
    # How many axes the blobs have that old files give four; () where the type does not tell.
    blob_axes: ClassVar[tuple[int, ...]] = ()
    # What it does with the blobs that the net's message gives.
    takes_blobs: ClassVar[bool] = True  # it begins with them (LSTM and RNN fill theirs anew)
    insists_on_shape: ClassVar[bool] = False  # they must have its own shape, not only its count
    count_tells: ClassVar[bool] = False  # how many there are says which form it has
    compute: ClassVar[str] = ""  # "module:function"; empty: the class has a `forward` of its own

    if TYPE_CHECKING:
        setup: Callable[..., None]
        shapes: Callable[..., tuple[Shape, ...]]
        blobs: Any  # the values: only where the layer runs, see caffeio.ops.module

    # What a net may do that is prepared for inference; a class that says anew what it computes says
    # these anew, too. Where the parameters decide, `setup` sets them on the layer.
    pure: bool = (
        False  # its tops follow from bottoms and blobs: no state, no draws, no side effects
    )
    fresh: bool = False  # each of its tops is memory of its own, and no view of a bottom's
    leaves_top: bool = False  # and no backward reads the top, so that a ReLU may write over it
    by_image: bool = False  # each image (axis 0) of the tops follows from that of the bottoms

    # Blobs are memory in Caffe, and Backward reads what later layers in place have left there: see
    # caffeio/net/overwritten.py. Where the parameters decide, `setup` sets these on the layer.
    reads_top: bool = False  # Backward reads the data of the tops
    reads_bottoms: frozenset[int] | None = frozenset()  # and of these bottoms (None: of all)
    reads_signs: bool = False  # of these it asks only whether a value is above 0
    keeps_signs: bool = False  # in place it leaves above 0 what is above 0, and nothing else
    writes_early: bool = False  # in place, Backward writes a gradient before it has read the top's
    shares_memory: bool = False  # the tops are the bottom's memory under other names
    shares_gradient: bool = False  # and so are the gradients, before there are any
    moves_gradient: bool = False  # Backward makes the top's gradient the bottom's, memory and all
    filled_again: tuple[int, ...] = ()  # blobs filled once more behind all, for nothing (LSTM)
    backward: ClassVar[str] = (
        ""  # "module:class" of Caffe's Backward; empty: autograd at the bottoms
    )

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if not {"compute", "forward"}.isdisjoint(cls.__dict__) and "_made_here" not in cls.__dict__:
            for fact in ("pure", "fresh", "leaves_top", "by_image"):
                setattr(cls, fact, cls.__dict__.get(fact, False))

    def __init__(self, param: LayerParameter, context: LayerContext | None = None) -> None:
        self.param = param
        self.name: str = param.name
        self.type_name: str = param.type
        self.context = context or LayerContext()
        self.blob_specs: list[BlobSpec] = []
        self.rng: CaffeRng | None = None  # Caffe's own generator, when a seed was given
        self.bottom_shapes: tuple[Shape, ...] = ()  # of the net as it was built
        self.top_shapes: tuple[Shape, ...] = ()

    @property
    def train_phase(self) -> bool:
        """Whether this layer's phase is TRAIN."""
        return self.context.phase == "TRAIN"

    @property
    def profile(self) -> Profile:
        """The Caffe whose numbers are computed."""
        return self.context.profile

    def allows_force_backward(self, index: int) -> bool:
        """Whether `force_backward` asks for the gradient of bottom `index`."""
        unforced = self.unforced_bottoms
        if unforced is None:
            return not self.is_loss or index != 1
        return index not in unforced

    def dies_backward(self, needs: Sequence[bool]) -> str:
        """Say why Caffe dies in Backward if the bottoms `needs` want gradients; empty: it goes on.

        Called for layers that run backward.
        """
        for i in sorted(self.label_bottoms):
            if i < len(needs) and needs[i]:
                what = "label inputs" if self.is_loss else "such an input"
                name = self.context.bottom_names[i] if self.context.bottom_names else ""
                return (
                    f"{self.type_name} cannot backpropagate to {what}: bottom {i} ({name!r}) needs "
                    "propagate_down: false"
                )
        return ""

    def dies_forward(self) -> str:
        """Say why Caffe dies in the first forward, although it has built the net; empty: not."""
        return ""

    def legacy_axes(self, *indices: int) -> str:
        """Say that one of these bottoms has more axes than num, channels, height and width."""
        for i in indices:
            if i < len(self.bottom_shapes) and len(self.bottom_shapes[i]) > 4:
                return (
                    f"{self.type_name} takes bottoms of at most 4 axes, not {self.bottom_shapes[i]}"
                )
        return ""

    @property
    def n_tops(self) -> int:
        """Number of tops, 1 where none is named."""
        return max(1, len(self.context.top_names))

    @property
    def runs_in_place(self) -> bool:
        """Whether the layer's first top is its first bottom."""
        context = self.context
        return bool(context.top_names) and context.top_names[:1] == context.bottom_names[:1]

    def configure(self, *bottoms: Shape) -> tuple[Shape, ...]:
        """Check the fields, set the layer up for bottoms of these shapes, find its tops' shapes.

        Raises LayerError for a field that the type does not know, and for what `setup` and
        `shapes` refuse.
        """
        self.bottom_shapes = bottoms
        self.check_fields()
        self.setup(*bottoms)
        self.top_shapes = self.shapes(*bottoms)
        for shape in self.top_shapes:
            self.check(all(n >= 0 for n in shape), f"the top would get the shape {shape}")
        return self.top_shapes

    if not TYPE_CHECKING:

        def setup(self, *bottoms: Shape) -> None:
            """Check the parameters against the bottoms' shapes and declare the blobs."""

        def shapes(self, *bottoms: Shape) -> tuple[Shape, ...]:
            """Return the shape of every top: here that of the first bottom; a scalar for a loss."""
            return ((),) if self.is_loss else bottoms[:1] * self.n_tops

    def told(self, *bottoms: Shape) -> tuple[Shape | None, ...]:
        """Return what is known of the tops' shapes before there are data: here all."""
        return self.top_shapes

    def onnx(self, g: OnnxGraph, *bottoms: str) -> str | tuple[str, ...]:
        """Add this layer to the ONNX graph `g`; return the names of the tops' values."""
        raise UnsupportedError(
            f"layer {self.name!r}: type {self.type_name} has no ONNX form",
            where=self.context.where or None,
        )

    def macs(self) -> int:
        """Multiply-accumulates of one forward pass at the shapes of the build; 0 if negligible."""
        return 0

    @classmethod
    def summary(cls, param: LayerParameter) -> str | None:
        """Say in a few words what the fields make the layer do; None: they are listed as given."""
        return None

    def add_blob(
        self,
        name: str,
        shape: Sequence[int],
        filler: FillerParameter | None = None,
        *,
        default: float = 0.0,
        statistic: bool = False,
    ) -> Any:
        """Declare the next blob, float32; raises LayerError for one that is too large."""
        self.check_blob(name, shape)
        self.blob_specs.append(BlobSpec(name, tuple(shape), filler, default, statistic))

    def check_blob(self, name: str, shape: Sequence[int]) -> None:
        """Refuse what Blob::Reshape refuses: negative sizes, and counts that no int holds."""
        known = [n for n in shape if isinstance(n, int)]
        if any(n < 0 for n in known) or prod(known) > MAX_COUNT:
            text = " ".join(map(str, shape))
            raise self.error(f"its {name} of shape {text} is larger than a blob may be")

    def add_buffer(self, name: str, values: Any) -> None:
        """Keep an array (or None) as attribute `name`: where the layer runs, a tensor.

        It moves to the net's device and is not saved with the weights.
        """
        setattr(self, name, values)

    @classmethod
    def count_problem(cls, type_name: str, bottoms: int, tops: int) -> str | None:
        """Say what is wrong with these numbers of bottoms and tops, as CheckBlobCounts does."""
        if cls.is_source and bottoms:
            return f"{type_name} makes data and takes no bottom blobs"
        if bottoms not in cls.bottoms and not cls.is_source:
            return f"{type_name} takes {cls.bottoms} bottom blob(s), not {bottoms}"
        if tops not in cls.tops:
            return f"{type_name} produces {cls.tops} top blob(s), not {tops}"
        if cls.equal_bottoms_tops and tops != bottoms:
            return (
                f"{type_name} produces one top blob for each bottom blob: {bottoms} bottoms, "
                f"{tops} tops"
            )
        return None

    def check_fields(self) -> None:
        """Raise LayerError if a message of `fields` sets more than is known, and engines.

        A field that is set to its own default says nothing and is let through.
        """
        for message, names in self.fields.items():
            if names is None or not self.param.HasField(message):
                continue
            for descriptor, value in getattr(self.param, message).ListFields():
                name = descriptor.name
                if name in names or name in ENGINE_CHOICES:
                    continue
                plain = isinstance(value, int | float | str) and descriptor.has_default_value
                if not (plain and value == descriptor.default_value):
                    path = f"{message}.{name}"
                    raise self.error(FOREIGN_FIELD, field=path)

    def error(self, message: str, *, field: str | None = None) -> LayerError:
        """Make an error of this layer, ready to be raised; `field` is the wrong field's path."""
        place = f"layer {self.name!r} (type {self.type_name})"
        if field:
            place += f", {field}"
        return LayerError(f"{place}: {message}", where=self.context.where or None)

    def check(self, ok: bool, message: str, *, field: str | None = None) -> None:
        """Raise `error(message)` unless `ok`."""
        if not ok:
            raise self.error(message, field=field)

    def axis(self, index: int, ndim: int, field: str = "axis") -> int:
        """Find the axis that `index` means (negative: from the end): Caffe's CanonicalAxisIndex."""
        if not -ndim <= index < ndim:
            raise self.error(f"axis {index} out of range for a {ndim}-D bottom", field=field)
        return index % ndim if ndim else 0


# Names that are at home elsewhere; old programs look for them here.
__getattr__, __dir__, _ = lazy_names(
    __name__,
    {
        "Layer": "caffeio.ops.module",
        "REGISTRY": "caffeio.layers.registry",
        "known_types": "caffeio.layers.registry",
        "layer": "caffeio.layers.registry",
        "lookup": "caffeio.layers.registry",
    },
)
