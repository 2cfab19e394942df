"""The settings of every arm's cells: the shared recipe, and what is an arm's own."""

from supcon_tf.config import PretrainConfig
from supcon_tf.config.arms import ARMS, OF_METHOD
from supcon_tf.config.settings import default_of
from supcon_tf.core.errors import UserError


def shared_recipe(base: PretrainConfig, arms: tuple[str, ...]) -> PretrainConfig:
    """The recipe that all cells share: whatever their seed, they have the same splits.

    Raises:
        UserError: if `method_args` are given for a method that no arm has, or a memory queue,
            which not every arm can use.
    """
    if base.queue_size:
        raise UserError(
            f"compare trains without a memory queue, which not every arm can use. Received: "
            f"queue_size={base.queue_size}. Leave it out."
        )
    if base.method_args and base.method not in {ARMS[name].method for name in arms}:
        raise UserError(
            f"method_args apply to the arm of --method, which is not among the arms. Received: "
            f"{base.method_args} with method={base.method!r}. Leave them out."
        )
    return base.replace(data_seed=base.data_seed or 0)


def arm_config(base: PretrainConfig, name: str, **changes) -> PretrainConfig:
    """The recipe with an arm's method.

    Settings of another method are left out, and `method_args` reach the arm of `base.method`.

    Args:
        base: the shared recipe.
        name: a key of `ARMS`.
        **changes: further settings.
    """
    arm = ARMS[name]
    fields = PretrainConfig.__dataclass_fields__
    left_out = {one: default_of(fields[one]) for one in OF_METHOD if one not in arm.takes}
    own = base.method_args if arm.method == base.method else {}
    return base.replace(method=arm.method, method_args=own, **{**left_out, **changes})


def final_config(base: PretrainConfig, name: str, **changes) -> PretrainConfig:
    """The settings of an arm's final cells: all training images, none set aside for validation."""
    return arm_config(base, name, **{"validation_fraction": 0.0, "validation_epochs": 1, **changes})
