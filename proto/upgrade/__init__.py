"""Old forms of nets and solvers to today's."""
