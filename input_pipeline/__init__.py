"""Reading, batching and augmenting the image pairs the models train on."""
