"""`export`: from a version's folder to one of ONNX graphs, INT8 where asked, held to the version itself."""
