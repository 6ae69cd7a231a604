"""The states, by kind. A builder gets a `Db`; what stands after its `yield` damages what was published."""
