"""Actors that live apart from the learner: a world, a person who takes over, and the storage between them."""
