"""The arms of a comparison, as data: methods by the names that a reader of papers knows."""

import dataclasses

# Settings of the projection head, which cross entropy does not have.
_HEAD = ("embedding_dim", "projection_hidden_dim")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method as it takes part in a comparison.

    Attributes:
        title: in tables and pictures.
        method: its name for `--method`.
        takes: the recipe's settings that belong to a method and that this one uses. If an arm does
            not take `temperature`, its method has a different one by definition, or none.
    """

    title: str
    method: str
    takes: tuple[str, ...] = _HEAD


_TEMPERED = ("temperature", *_HEAD)

ARMS = {
    "cross_entropy": Arm("cross entropy", "cross_entropy", takes=()),
    "supcon": Arm("SupCon (L_out)", "supcon_out", _TEMPERED),
    "supcon_in": Arm("SupCon (L_in)", "supcon_in", _TEMPERED),
    "sincere": Arm("SINCERE", "sincere", _TEMPERED),
    "joint": Arm("SupCon and cross entropy jointly", "joint", _TEMPERED),
    "simclr": Arm("SimCLR", "simclr"),
    "max_margin": Arm("max-margin", "max_margin"),
    "triplet": Arm("triplet", "triplet"),
    "npairs": Arm("N-pairs", "npairs"),
}
# The recipe's settings that are an arm's business.
OF_METHOD = _TEMPERED
