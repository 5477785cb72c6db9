"""The Label Studio ML backend: protocol, console and the durable workflow of a round."""
