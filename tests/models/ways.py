"""Ways a model may come back as another one that must answer the same."""

import copy
import io
import pickle

import torch


def traced(model):
    graph = torch.fx.symbolic_trace(model)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="aot_eager")


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def restored(model):
    """Its checkpoint, in a model of other weights."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1.0
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other


WAYS = [traced, compiled, pickled, copy.deepcopy, restored]
