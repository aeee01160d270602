"""Pure Flax modules: arrays in, arrays out; no mesh, no config, no loss, no files.

What is computed in which precision: parameters, their average and the optimizer's moments are float32. A model's
``dtype`` (float32, bfloat16) is that of its matrix products, convolutions and activations. Always float32: statistics
of norms, softmax and its logits, embeddings of time, CLIP's projected features, and every loss.
"""
