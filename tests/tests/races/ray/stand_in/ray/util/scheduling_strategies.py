class NodeAffinitySchedulingStrategy:
    def __init__(self, node, soft):
        assert not soft, "another node knows nothing of it"
