"""What a run will need, by plain numbers: parameters, memory, operations. Nothing is measured."""
