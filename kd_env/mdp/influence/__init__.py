"""How much each sample of a student's update lowers its loss on feedback rows, by one forward-mode product.

LGTM (Ren et al., ACL 2023) weighs samples by their *distillation influence*. With per-sample losses ``l_i``, weights
``w`` and an optimiser ``U``, the update is ``s'(w) = U(grad mean_i w_i l_i(s))``, and what is wanted is

    ``s_i = -d L_feedback(s'(w)) / d w_i  at  w = 1``,

the drop of the feedback loss per unit of weight: that against gold labels, without a temperature (with
``gap=calibrated`` rewards are about another one). The update clips the gradient, which ties all tensors together
(Jacobian ``J``, symmetric), then goes through an optimiser that acts element by element, so that its derivative with
respect to the clipped gradient is a diagonal ``D``, and

    ``s_i = -<grad l_i(s), J D v> / B``  with  ``v = grad L_feedback(s')``.

All B products are the directional derivatives of the per-sample losses along ``J D v``: one ``torch.func.jvp``. The
finite differences of the released code are here too (:mod:`.derivatives`). All of it is pure functions of N stacked
students; nothing of theirs is written in place.

With ``adamw`` the virtual update is the real one (:func:`kd_env.mdp.transition.transition`): loss, running scales,
clipping, moments, decay and learning rate. Two things differ. A student without an update so far makes a step of SGD:
Adam's first update is the sign of the gradient, whose derivative is 0 but for entries within ``eps`` of 0. And dropout
is off. A teacher that learns is taken as it is, though it moves before the real update.
"""
