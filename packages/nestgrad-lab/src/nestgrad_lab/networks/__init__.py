"""The networks that an experiment trains: sizes and weights alike for any backend, and each backend's functions."""

from nestgrad_lab.networks.network import SIZES as SIZES
from nestgrad_lab.networks.network import Lstm as Lstm
from nestgrad_lab.networks.network import Mlp as Mlp
from nestgrad_lab.networks.network import Network as Network
from nestgrad_lab.networks.network import ResNet18 as ResNet18
from nestgrad_lab.networks.network import network_for as network_for
