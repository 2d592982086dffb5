"""Parameters and gradients as programs hold them: mappings, lists, tuples, one array, attributes of an object."""

from gradguard.containers.container import ArrayContainer, Container, is_container
from gradguard.containers.of_object import Attributes, array_attributes, attributes
from gradguard.containers.reading import Parameters, read_gradients, read_parameters

__all__ = [
    "ArrayContainer",
    "Attributes",
    "Container",
    "Parameters",
    "array_attributes",
    "attributes",
    "is_container",
    "read_gradients",
    "read_parameters",
]
