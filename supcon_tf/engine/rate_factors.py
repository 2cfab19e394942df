"""SGD with momentum whose learning rate differs between variables, for fine-tuning."""

from collections.abc import Sequence

import keras

from supcon_tf.engine.optimizers import MomentumSGD


@keras.saving.register_keras_serializable("supcon_tf")
class FactoredSGD(MomentumSGD):
    """`MomentumSGD` with a factor on the learning rate of each variable.

        g <- g + l2 w;   v <- momentum v - factor rate g;   w <- w + v

    Args:
        learning_rate: float, schedule or callable.
        factors: float > 0 for each variable, in the order in which the optimizer gets them.
        **kwargs: as for `MomentumSGD`.

    Raises:
        ValueError: if a factor is not positive, or, once it is built, there are more or fewer
            factors than variables.
    """

    def __init__(self, learning_rate=0.01, factors: Sequence[float] = (), **kwargs):
        if not all(factor > 0 for factor in factors):
            raise ValueError(f"factors must be above 0. Received: {factors}.")
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.factors = tuple(factors)

    def build(self, variables):
        """Makes the state of the variables, one for each factor."""
        if len(variables) != len(self.factors):
            raise ValueError(
                f"factors must be one for each of the {len(variables)} variables. Received: "
                f"{len(self.factors)}."
            )
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable, from its summed gradient."""
        factor = self.factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, factor * learning_rate)

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "factors": list(self.factors)}
