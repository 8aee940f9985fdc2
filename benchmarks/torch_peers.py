"""The LDEQ and the stacked hourglass in PyTorch: python benchmarks/torch_peers.py ldeq '{"batch": 32, …}'

`gpu_rows.py` and `step.py` start this program (`measuring.Peer`), so that neither library uses the
memory of the other. It compiles the training step and writes a line {"compilation": seconds} when it is ready. For
every line that it reads it times the step and writes {"seconds": of a step, "memory": most bytes that PyTorch held}.

The steps do the work of jaxlm's: the same layers, losses, clipping, AdamW or RMSprop, and moving average, channels
last, with `torch.compile`; on a GPU with convolutions in bfloat16 (autocast) and cuDNN's search for algorithms. The
equilibrium follows the usual DEQ libraries: Anderson without gradients, one application of the cell with them, and for
implicit gradients Anderson again on the vector-Jacobian product. That product is taken from a second graph without
gradients of the parameters: a compiled graph computes all its gradients, which would make every adjoint step twice as
expensive.
"""

import copy
import json
import statistics
import sys
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")


class ConvBlock(nn.Module):
    """Convolution, LeakyReLU and norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, norm: str = "group"):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2)
        self.norm = nn.GroupNorm(8, outputs, 1e-6) if norm == "group" else nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.norm(F.leaky_relu(self.conv(x), 0.01))


class Hourglass(nn.Module):
    """`jaxlm.networks.hourglass.Hourglass`."""

    def __init__(self, width: int, growth: int, depth: int):
        super().__init__()
        self.depth = depth
        widths = [width + level * growth for level in range(depth + 1)]
        inputs = [width, *widths[1:]]
        self.skip = nn.ModuleList(ConvBlock(inputs[i], widths[i]) for i in range(depth))
        self.down = nn.ModuleList(ConvBlock(widths[i], widths[i + 1]) for i in range(depth))
        self.bottom = ConvBlock(widths[-1], widths[-1])
        self.up = nn.ModuleList(ConvBlock(widths[i + 1], widths[i]) for i in range(depth))
        self.merge = nn.ModuleList(ConvBlock(2 * widths[i], widths[i], 1) for i in range(depth))
        self.refine = nn.ModuleList(ConvBlock(widths[i], widths[i], 5) for i in range(depth))

    def forward(self, x):
        skips = []
        for level in range(self.depth):
            skips.append(self.skip[level](x))
            x = self.down[level](F.avg_pool2d(skips[-1], 2))
        x = self.bottom(x)
        for level in reversed(range(self.depth)):
            x = F.interpolate(self.up[level](x), scale_factor=2, mode="nearest")
            x = self.merge[level](torch.cat([x, skips[level]], dim=1))
            x = x + self.refine[level](x)
        return x


class Stem(nn.Sequential):
    """`jaxlm.systems.ldeq.network.Stem`."""

    def __init__(self, channels: int):
        super().__init__(
            ConvBlock(3, channels // 4, 7, 2, "batch"),
            ConvBlock(channels // 4, channels // 2, norm="batch"),
            nn.MaxPool2d(2),
            ConvBlock(channels // 2, channels, norm="batch"),
        )


class Cell(nn.Module):
    """`jaxlm.systems.ldeq.network.Cell`."""

    def __init__(self, landmarks: int, channels: int, width: int, growth: int, depth: int, temperature: float = 2.5):
        super().__init__()
        self.enter = ConvBlock(channels + landmarks, width, 1)
        self.hourglass = Hourglass(width, growth, depth)
        self.exit = nn.Conv2d(width, landmarks, 1)
        self.temperature = temperature

    def forward(self, z, x):
        with torch.autocast(DEVICE.type, torch.bfloat16, GPU):
            logits = self.exit(self.hourglass(self.enter(torch.cat([x, z.to(x.dtype)], dim=1)))).float()
        return torch.exp((logits - logits.amax(dim=(2, 3), keepdim=True)) / self.temperature)


def anderson(fun, z, steps: int, memory: int = 6, ridge: float = 1e-4):
    """Iterate after `steps` steps of Anderson acceleration with the window of `jaxlm.solvers.anderson`."""
    batch, window = z.shape[0], min(memory, steps)
    images = z.new_zeros(window, *z.shape)
    residuals = torch.zeros_like(images)
    gram = z.new_zeros(batch, window, window)
    best, least = z, torch.full((batch,), torch.inf, device=z.device)
    for step in range(steps):
        fz = fun(z)
        slot, used = step % window, min(step + 1, window)
        images[slot], residuals[slot] = fz, fz - z
        norm = residuals[slot].flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)
        better = norm < least
        best = torch.where(better[:, None, None, None], z, best)
        least = torch.minimum(norm, least)
        row = torch.einsum("mbchw,bchw->bm", residuals, residuals[slot])
        gram[:, slot, :], gram[:, :, slot] = row, row
        weights = anderson_weights(gram[:, :used, :used], ridge)
        z = torch.einsum("bm,mbchw->bchw", weights, images[:used]).contiguous(memory_format=torch.channels_last)
    return best


def anderson_weights(gram, ridge: float):
    """Weights (B, m) of the iterates, which sum to one."""
    scale = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-30).sqrt()
    system = gram / (scale[:, :, None] * scale[:, None, :]) + ridge * torch.eye(gram.shape[1], device=gram.device)
    weights = torch.linalg.solve(system, 1.0 / scale) / scale
    return weights / weights.sum(dim=1, keepdim=True)


def differentiable_anderson(fun, z, steps: int, memory: int = 6, ridge: float = 1e-4):
    """Last iterate of `anderson` in a form that autograd can go through: nothing is written twice."""
    images, residuals = [], []
    for _ in range(steps):
        fz = fun(z)
        images, residuals = [*images, fz][-memory:], [*residuals, (fz - z).flatten(1)][-memory:]
        stacked = torch.stack(residuals, dim=1)
        weights = anderson_weights(stacked @ stacked.transpose(1, 2), ridge)
        z = sum(weights[:, i, None, None, None] * image for i, image in enumerate(images))
    return z


def soft_argmax(z):
    """Landmarks (B, K, 2) in cells of heatmaps (B, K, h, w)."""
    columns, rows = z.sum(dim=2), z.sum(dim=3)
    total = columns.sum(dim=2)
    x = (columns * torch.arange(z.shape[3], device=z.device)).sum(dim=2) / total
    y = (rows * torch.arange(z.shape[2], device=z.device)).sum(dim=2) / total
    return torch.stack([x, y], dim=2)


class Updates:
    """Clipping, optimiser and moving average of a module's parameters."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, clip: float, ema: float):
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters] if ema else []
        self.optimizer, self.clip, self.ema = optimizer, clip, ema

    def apply(self):
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.ema)


def normalized(images):
    """Pictures (B, 3, H, W) of uint8 as the networks see them."""
    mean = torch.tensor([123.675, 116.28, 103.53], device=images.device).view(1, 3, 1, 1)
    deviation = torch.tensor([58.395, 57.12, 57.375], device=images.device).view(1, 3, 1, 1)
    return ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)


def random_pictures(batch: int, size: int):
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=DEVICE)


def ldeq(sizes: dict[str, Any], compiled) -> Any:
    """Training step of the LDEQ with the gradient `sizes["gradient"]`: implicit, jacobian_free or unrolled."""
    gradient = sizes.get("gradient", "implicit")
    batch, size, landmarks, steps = sizes["batch"], sizes["size"], sizes["landmarks"], sizes["steps"]
    stem = Stem(sizes["channels"]).to(DEVICE, memory_format=torch.channels_last)
    cell = Cell(landmarks, *(sizes[key] for key in ("channels", "width", "growth", "depth")))
    cell = cell.to(DEVICE, memory_format=torch.channels_last)
    frozen = copy.deepcopy(cell).requires_grad_(False)
    for mine, theirs in zip(frozen.parameters(), cell.parameters(), strict=True):
        mine.data = theirs.data  # the same memory
    run_stem, run_cell, run_frozen = compiled(stem), compiled(cell), compiled(frozen)
    everything = nn.ModuleList([stem, cell])
    adamw = torch.optim.AdamW(everything.parameters(), 1e-5, weight_decay=1e-4, fused=GPU)
    updates = Updates(everything, adamw, clip=1.0, ema=0.999)
    pictures = random_pictures(batch, size)
    target = torch.rand(batch, landmarks, 2, device=DEVICE) * size / 4
    zeros = torch.zeros(batch, landmarks, size // 4, size // 4, device=DEVICE)
    zeros = zeros.contiguous(memory_format=torch.channels_last)

    def step():
        with torch.autocast(DEVICE.type, torch.bfloat16, GPU):
            x = run_stem(normalized(pictures))
        constant = x.detach()
        if gradient == "unrolled":
            fz = run_cell(differentiable_anderson(lambda z: run_cell(z, x), zeros, steps), x)
            loss = loss_of(fz)
            loss.backward()
            updates.apply()
            return loss
        with torch.no_grad():
            z = anderson(lambda z: run_frozen(z, constant), zeros, steps)
        fz = run_cell(z.detach(), x)
        loss = loss_of(fz)
        if gradient == "jacobian_free":
            loss.backward()
            updates.apply()
            return loss
        start = z.detach().requires_grad_()
        linear = run_frozen(start, constant)
        (incoming,) = torch.autograd.grad(loss, fz, retain_graph=True)

        def adjoint(u):
            return incoming + torch.autograd.grad(linear, start, u, retain_graph=True)[0]

        u = anderson(adjoint, incoming, steps)
        fz.backward(u)
        updates.apply()
        return loss

    def loss_of(fz):
        return (soft_argmax(fz) - target).abs().mean() / (size / 4)

    return step


class MultiScaleBlock(nn.Module):
    """`jaxlm.systems.awing.network.MultiScaleBlock`."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        widths = [inputs, features // 2, features // 4, features // 4]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[:3])
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, 1, 1, bias=False) for i in range(3))
        self.shortcut = None
        if inputs != features:
            self.shortcut = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, features, 1, bias=False))

    def forward(self, x):
        parts, y = [], x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.relu(norm(y)))
            parts.append(y)
        return torch.cat(parts, dim=1) + (x if self.shortcut is None else self.shortcut(x))


class BlockHourglass(nn.Module):
    """`jaxlm.systems.awing.network.BlockHourglass`."""

    def __init__(self, features: int, depth: int):
        super().__init__()
        self.skip, self.down, self.up = (
            nn.ModuleList(MultiScaleBlock(features, features) for _ in range(depth)) for _ in range(3)
        )
        self.bottom = MultiScaleBlock(features, features)

    def forward(self, x):
        skips = []
        for skip, down in zip(self.skip, self.down, strict=True):
            skips.append(skip(x))
            x = down(F.avg_pool2d(x, 2))
        x = self.bottom(x)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = skip + F.interpolate(up(x), scale_factor=2, mode="nearest")
        return x


def coordinates(x, boundary=None):
    """`jaxlm.systems.awing.network.coordinate_channels`."""
    batch, _, height, width = x.shape
    columns = torch.linspace(-1, 1, width, device=x.device).expand(batch, 1, height, width)
    rows = torch.linspace(-1, 1, height, device=x.device)[:, None].expand(batch, 1, height, width)
    channels = [columns, rows, ((columns**2 + rows**2) / 2).sqrt()]
    if boundary is not None:
        on = (boundary >= 0.05).float()
        channels += [columns * on, rows * on]
    return torch.cat(channels, dim=1).to(x.dtype)


class StackedHourglass(nn.Module):
    """`jaxlm.systems.awing.network.StackedHourglass` with boundary and coordinates."""

    def __init__(self, landmarks: int, stacks: int, features: int, depth: int):
        super().__init__()
        quarter, half = features // 4, features // 2
        self.conv, self.norm = nn.Conv2d(6, quarter, 7, 2, 3), nn.BatchNorm2d(quarter)
        self.blocks = nn.ModuleList(MultiScaleBlock(*io) for io in ((quarter, half), (half, half), (half, features)))

        def each(make):
            return nn.ModuleList(make(number) for number in range(stacks))

        outputs = landmarks + 1
        self.coordinates = each(lambda i: nn.Conv2d(features + (5 if i else 3), features, 1))
        self.hourglass = each(lambda i: BlockHourglass(features, depth))
        self.top = each(lambda i: MultiScaleBlock(features, features))
        self.linear = each(lambda i: nn.Conv2d(features, features, 1))
        self.norms = each(lambda i: nn.BatchNorm2d(features))
        self.heatmaps = each(lambda i: nn.Conv2d(features, outputs, 1))
        self.merge_features = each(lambda i: nn.Conv2d(features, features, 1))[:-1]
        self.merge_heatmaps = each(lambda i: nn.Conv2d(outputs, features, 1))[:-1]

    def forward(self, images):
        x = torch.cat([images, coordinates(images)], dim=1)
        x = F.relu(self.norm(self.conv(x)))
        x = F.avg_pool2d(self.blocks[0](x), 2)
        x = self.blocks[2](self.blocks[1](x))
        outputs, boundary = [], None
        for i in range(len(self.top)):
            entered = self.coordinates[i](torch.cat([x, coordinates(x, boundary)], dim=1))
            h = self.top[i](self.hourglass[i](entered))
            h = F.relu(self.norms[i](self.linear[i](h)))
            with torch.autocast(DEVICE.type, enabled=False):
                maps = F.conv2d(h.float(), self.heatmaps[i].weight, self.heatmaps[i].bias)
            outputs.append(maps)
            if i + 1 < len(self.top):
                x = x + self.merge_features[i](h) + self.merge_heatmaps[i](maps)
            boundary = maps[:, -1:]
        return torch.stack(outputs)


def adaptive_wing(pred, target, alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5):
    """`jaxlm.losses.adaptive_wing`."""
    error, exponent = (pred - target).abs(), alpha - target
    power = (theta / epsilon) ** exponent
    slope = omega * exponent * power / (theta * (1 + power))
    curved = omega * torch.log1p((error.clamp_min(1e-12) / epsilon) ** exponent)
    return torch.where(error < theta, curved, slope * (error - theta) + omega * torch.log1p(power))


def hourglass(sizes: dict[str, Any], compiled) -> Any:
    """Training step of the stacked hourglass with the Adaptive Wing loss. The target heatmaps are given."""
    batch, size, landmarks = sizes["batch"], sizes["size"], sizes["landmarks"]
    network = StackedHourglass(landmarks, *(sizes[key] for key in ("stacks", "features", "depth")))
    network = network.to(DEVICE, memory_format=torch.channels_last)
    rmsprop = torch.optim.RMSprop(network.parameters(), 1e-6, alpha=0.99, weight_decay=1e-5, foreach=True)
    updates = Updates(network, rmsprop, clip=0.0, ema=0.0)
    pictures = random_pictures(batch, size)
    target = torch.rand(batch, landmarks + 1, size // 4, size // 4, device=DEVICE)
    target = target.contiguous(memory_format=torch.channels_last)

    def loss_of(pictures, target):
        with torch.autocast(DEVICE.type, torch.bfloat16, GPU):
            stages = network(normalized(pictures))
        weight = 10.0 * (F.max_pool2d(target, 3, 1, 1) >= 0.2).float() + 1.0
        return (adaptive_wing(stages, target) * weight).mean(dim=(1, 2, 3, 4)).sum()

    compiled_loss = compiled(loss_of)

    def step():
        loss = compiled_loss(pictures, target)
        loss.backward()
        updates.apply()
        return loss

    return step


def wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def main(name: str, options: str) -> None:
    import torch._functorch.config as functorch  # pyright: ignore[reportMissingImports]

    sizes = json.loads(options)
    functorch.donated_buffer = False  # the adjoint solver runs one backward graph several times
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    compiled = torch.compile if sizes.get("compile", True) else (lambda module: module)
    begin = time.perf_counter()
    step = {"ldeq": ldeq, "hourglass": hourglass}[name](sizes, compiled)
    for _ in range(3):
        step()
    wait()
    print(json.dumps({"compilation": time.perf_counter() - begin}), flush=True)
    while sys.stdin.readline():
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        step()
        wait()
        count, rounds = max(1, round(sizes.get("seconds", 1.0) / (time.perf_counter() - start))), []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(count):
                step()
            wait()
            rounds.append((time.perf_counter() - start) / count)
        memory = torch.cuda.max_memory_allocated() if GPU else 0
        print(json.dumps({"seconds": statistics.median(rounds), "memory": memory}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
