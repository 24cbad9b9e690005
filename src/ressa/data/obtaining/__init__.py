"""Getting datasets: what there is (`catalog`), over the network (`fetching`), out of archives (`unpacking`), one whole
dataset (`download`)."""
