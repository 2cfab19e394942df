"""Gradients of a loss whose terms train only some of the variables.

Such a term needs no activation of the layers below its own. In graph mode its gradient is therefore
taken before the layers above are computed, if the method computes its outputs in parts.
"""

import tensorflow as tf

from supcon_tf.engine.workers import gather_batch


def local_variables(model):
    """The variables that each term trains, by the term's name, without terms that train all.

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
    groups += [(variables, terms[name]) for name, variables in local.items() if name in terms]
    return [(variables, model.optimizer.scale_loss(loss)) for variables, loss in groups]


def local_gradients(model, batch):
    """Takes the gradients of each part of the outputs before the next part is computed.

    XLA orders operations as it likes, and ignores this.

    Args:
        model: a `Method` with local terms.
        batch: this replica's part of a batch.

    Returns:
        The terms of the loss; the gradients of `model.trainable_variables`, scaled as
        `model.optimizer.scale_loss` does; and the outputs of all replicas.
    """
    terms, outputs, groups, done = {}, {}, [], []
    with tf.GradientTape(persistent=True) as tape:

        def add_gradients(losses):
            terms.update(losses)
            scaled = grouped_losses(model, losses)
            with tape.stop_recording():
                groups.extend((some, tape.gradient(loss, some)) for some, loss in scaled)

        parts = model.forward_in_parts(batch)
        while True:
            with tf.control_dependencies(done):
                part = next(parts, None)
            if part is None:
                break
            part = tf.nest.map_structure(gather_batch, part)
            add_gradients(model.compute_losses(part))
            outputs.update(part)
            done = [one for _, gradients in groups for one in gradients if one is not None]
        add_gradients(model.regularization())
    return terms, summed_gradients(groups), outputs


def summed_gradients(groups):
    """Adds gradients up, variable by variable.

    Args:
        groups: `(variables, gradients)`, the first with all variables; None for no gradient.

    Returns:
        The gradients of the first group's variables; zeros if there are none.
    """
    variables, _ = groups[0]
    totals = {id(variable): tf.zeros(variable.shape, variable.dtype) for variable in variables}
    for some, gradients in groups:
        for variable, gradient in zip(some, gradients, strict=True):
            if gradient is not None:
                totals[id(variable)] += gradient
    return list(totals.values())
