"""What the benchmarks of the model server share: pictures, models, servers to compare, a cheap client."""
