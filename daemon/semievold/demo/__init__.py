"""The demonstration: a support desk's traffic and a small pretrained model, both without any account or hub."""
