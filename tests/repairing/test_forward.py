"""What repair changes about a network while it trains, it undoes."""

import torch
from torch import nn

from ressa.repairing.forward import walked_once


def test_a_network_walked_once_answers_as_it_would():
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Dropout(), nn.Linear(4, 2))).eval()
    own = dict(network.__dict__)
    parameters = list(network.parameters())
    with walked_once(network):
        assert network.train() is network
        assert all(module.training for module in network.modules())
        network(torch.ones(1, 3)).sum().backward()
        assert all(map(torch.equal, network.parameters(), parameters))
        assert all(parameter.grad is not None for parameter in parameters)
        network.zero_grad()
        assert all(parameter.grad is None for parameter in parameters)
        network.eval()
        assert not any(module.training for module in network.modules())
    assert network.__dict__ == own
    assert list(map(id, network.parameters())) == list(map(id, parameters))
