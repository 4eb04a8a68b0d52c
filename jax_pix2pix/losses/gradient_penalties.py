"""Optional penalties on D's slope, which differentiate D within its loss."""

import jax
import jax.numpy as jnp


def r1_penalty(discriminate, source, image):
    """Half the squared gradient of D's logits by real images, summed over pixels (Mescheder 2018).

    Returns the mean over images; a patch discriminator's logits are summed.
    """

    def total(image):
        logits = discriminate(source, image, update_stats=False)[-1]
        return sum(x.sum() for x in jax.tree.leaves(logits))

    return jnp.square(jax.grad(total)(image)).sum() / (2 * len(image))


def gradient_penalty(discriminate, source, real, fake, key):
    """WGAN-GP (Gulrajani et al., NeurIPS 2017): squared distance of D's slope from 1, mean over n.

    The slope is the norm of the gradient of the mean logit by an image at a random place between
    real and fake, both [n, *spatial, c].
    """
    share = jax.random.uniform(key, (len(real), *(1,) * (real.ndim - 1)), real.dtype)

    def total(image):
        logits = discriminate(source, image, update_stats=False)[-1]
        return sum(x.mean(tuple(range(1, x.ndim))).sum() for x in jax.tree.leaves(logits))

    slopes = jax.grad(total)(share * real + (1 - share) * fake)
    squares = jnp.square(slopes).sum(tuple(range(1, real.ndim)))
    # The root has no gradient at 0, where a D without any slope would be.
    return jnp.square(jnp.sqrt(squares + 1e-12) - 1).mean()
