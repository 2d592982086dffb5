// The LSTM in lstm.hpp as a Python module, by pybind11; its arrays have the buffer protocol, and gradguard needs no more.
#include <pybind11/pybind11.h>

#include "lstm.hpp"

namespace py = pybind11;

template <Array Tensor::*role>
static py::dict by_name(const py::object &self) {
    py::dict arrays;
    for (Tensor *tensor : self.cast<Lstm &>().tensors())
        arrays[tensor->name] = py::cast(&(tensor->*role), py::return_value_policy::reference_internal, self);
    return arrays;
}

PYBIND11_MODULE(bound, module) {
    py::class_<Array>(module, "Array", py::buffer_protocol()).def_buffer([](Array &array) {
        std::vector<std::size_t> strides(array.shape.size(), sizeof(Real));  // of a vector or a matrix, in bytes
        if (strides.size() == 2) strides[0] *= array.shape[1];
        return py::buffer_info(array.data.data(), array.shape, strides);
    });
    py::class_<std::mt19937>(module, "Dice").def(py::init<unsigned>());
    py::class_<Batch>(module, "Batch").def(py::init(&draw));
    py::class_<Lstm>(module, "Lstm")
        .def(py::init<std::mt19937 &>())
        .def_property_readonly("params", &by_name<&Tensor::values>)
        .def_property_readonly("grads", &by_name<&Tensor::gradients>)
        .def_readwrite("averages", &Lstm::averages)
        .def("loss", &Lstm::loss)
        .def("backward", &Lstm::backward)
        .def("update", &Lstm::update);
}
