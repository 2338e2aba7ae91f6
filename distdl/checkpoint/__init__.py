"""Checkpoints: plain mappings of tensors and JSON in and out, on disk as safetensors files and a manifest.

    checkpoints/step-00000400/   model.safetensors  optim.safetensors  ...  manifest.json

`snapshot` copies the state, `format` writes and verifies one folder, `save` commits it in the background, `retention`
says which are kept, `load` finds the newest whole one. A checkpoint exists once its manifest, with a checksum for every
file, is in place under the final name; nothing in it is ever unpickled.
"""
