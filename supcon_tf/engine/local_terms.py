"""Terms of a loss that train some of the variables only: their groups, and the sum of gradients."""

import tensorflow as tf


def local_variables(model):
    """The variables of the terms that do not train all of them, by the term's name.

    Args:
        model: a `Method`.
    """
    chosen = {name: model.trained_by(name) for name in model.loss_names}
    trainable = {id(variable) for variable in model.trainable_variables}
    return {
        name: [variable for variable in variables if id(variable) in trainable]
        for name, variables in chosen.items()
        if variables is not None
    }


def grouped_losses(model, terms):
    """The scaled losses, and the variables that each of them trains.

    Args:
        model: a compiled `Method`.
        terms: float32 scalars by name.

    Returns:
        list of `(variables, loss)`: first all variables and the sum of the terms that train all of
        them (0 if there are none), then one pair for each local term.
    """
    local = local_variables(model)
    shared = [term for name, term in terms.items() if name not in local]
    groups = [(model.trainable_variables, sum(shared) if shared else tf.zeros([]))]
    groups += [(variables, terms[name]) for name, variables in local.items()]
    return [(variables, model.optimizer.scale_loss(loss)) for variables, loss in groups]


def summed_gradients(groups):
    """Adds gradients up, variable by variable.

    Args:
        groups: `(variables, gradients)`, the first with all variables; None for no gradient.

    Returns:
        The gradients of the first group's variables; zeros where there is none.
    """
    variables, _ = groups[0]
    totals = {id(variable): tf.zeros(variable.shape, variable.dtype) for variable in variables}
    for some, gradients in groups:
        for variable, gradient in zip(some, gradients, strict=True):
            if gradient is not None:
                totals[id(variable)] += gradient
    return list(totals.values())
