"""The cascade at DALL-E 2's own sizes (Ramesh et al., https://arxiv.org/abs/2204.06125, appendix C), for TPU pods."""
