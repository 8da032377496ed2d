"""Muon (Jordan et al., 2024): momentum whose update is made orthogonal by Newton-Schulz steps.

Matrices of one shape are stacked and orthogonalised together: eight layers cost as many launches as one.
"""
import torch

# Quintic iteration that pushes all singular values towards 1; coefficients from the Muon write-up.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


def orthogonalise(g):
    """[n, rows, columns] -> about U V^T of each matrix."""
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        s = x @ x.mT
        x = A * x + (B * s + C * s @ s) @ x
    return x.mT if tall else x


class Muon:
    def __init__(self, parameters, momentum=0.95, weight_decay=0.1):
        self.momentum, self.weight_decay = momentum, weight_decay
        shapes = {}
        for p in parameters:
            shapes.setdefault(p.shape, []).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *shape, device=ps[0].device)) for shape, ps in shapes.items()]

    @torch.no_grad()
    def step(self, lr):
        for parameters, buffer in self.groups:
            gradient = torch.stack([p.grad for p in parameters])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(buffer, self.momentum)).float()
            rows, columns = update.shape[1:]
            scale = lr * max(1, rows / columns) ** 0.5
            torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-scale)
