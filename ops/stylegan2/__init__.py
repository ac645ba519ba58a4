"""StyleGAN2: one generator with two optional seams, and its discriminator."""
