"""Things that worlds are furnished with. Each function returns a Blender object that stands on z = 0 at the origin."""
import numpy as np

from corpus.graphics import poster
from corpus.materials import picture
from corpus.shapes import Mesh


def tree(rng, kit, height_m: float, autumn: bool = False):
    """A trunk with branches, leaf blobs about their ends and loose leaves: a broad-leaved tree."""
    mesh, trunk = Mesh(), height_m * rng.uniform(.3, .5)
    radius = height_m * rng.uniform(.018, .035)
    mesh.tube([0, 0, -.3], [0, 0, height_m * .75], radius, 0, radius * .3, 8)
    for _ in range(rng.integers(5, 10)):
        angle, reach, base = 6.3 * rng.random(), height_m * rng.uniform(.1, .25), rng.uniform(trunk, height_m * .8)
        end = np.array([reach * np.cos(angle), reach * np.sin(angle), base + reach * rng.uniform(.2, 1)])
        mesh.tube([0, 0, base], end, radius * .4, 0, radius * .15, 5)
        blob = height_m * rng.uniform(.07, .15)
        mesh.ball(end, blob * rng.uniform(.8, 1.2, 3), int(rng.integers(1, 3)), rng, .16, 6, 9)
        mesh.cards(end + rng.normal(0, blob * .75, (22, 3)), blob * .35, rng, int(rng.integers(1, 3)))
    leaf = "autumn" if autumn else "leaf"
    return mesh.build([kit("bark"), kit(leaf), kit(leaf)])


def conifer(rng, kit, height_m: float, bare: float = .12):
    """A trunk and a stack of ragged cones; `bare` is the share of the height below them."""
    mesh = Mesh().tube([0, 0, -.3], [0, 0, height_m * .9], height_m * .02, 0, height_m * .004, 7)
    tiers = rng.integers(4, 7)
    for k in range(tiers):
        low = height_m * (bare + (.92 - bare) * k / tiers)
        mesh.tube([0, 0, low], [0, 0, low + height_m * .3], height_m * .2 * (1.05 - k / tiers), 1, 0.01, 9)
        mesh.cards(np.c_[rng.normal(0, height_m * .08 * (1.1 - k / tiers), (8, 2)), np.full(8, low)], height_m * .07, rng, 1)
    return mesh.build([kit("bark"), kit("leaf")])


def rock(rng, kit, size_m: float):
    """A dented boulder, or a bush when the kit's dice say so."""
    mesh, bush = Mesh(), rng.random() < .5
    for _ in range(rng.integers(1, 4)):
        mesh.ball([*rng.normal(0, size_m * .35, 2), size_m * .2], size_m * rng.uniform(.35, .7, 3), 0, rng, .12)
    if bush:
        mesh.cards(rng.normal([0, 0, size_m * .4], size_m * .4, (40, 3)), size_m * .22, rng, 0)
    return mesh.build([kit("leaf" if bush else "rock")])


def house(rng, kit, width_m: float, depth_m: float, floors: int):
    """A building with window grids, a door, and a flat or a gabled roof."""
    mesh, height = Mesh(), floors * 3.0
    mesh.box([0, 0, height / 2], [width_m, depth_m, height])
    gable = rng.random() < .6
    if gable:
        w, d, h = width_m / 2 + .4, depth_m / 2 + .4, height
        top = h + rng.uniform(.3, .6) * depth_m
        mesh.add([[-w, -d, h], [w, -d, h], [w, d, h], [-w, d, h], [-w, 0, top], [w, 0, top]],
                 [[0, 1, 5, 4], [2, 3, 4, 5], [0, 4, 3], [1, 2, 5]], 1)
    else:
        mesh.box([0, 0, height + .2], [width_m + .5, depth_m + .5, .4], 1)
    step, size = rng.uniform(1.8, 3.2), np.array([rng.uniform(.8, 1.4), rng.uniform(1.0, 1.7)])
    for floor in range(floors):
        z = floor * 3 + 1.6
        for x in np.arange(-width_m / 2 + step / 2, width_m / 2 - .5, step):
            for y in (-depth_m / 2, depth_m / 2):
                mesh.box([x, y, z], [size[0] + .2, .16, size[1] + .2], 3).box([x, y, z], [size[0], .22, size[1]], 2)
        for y in np.arange(-depth_m / 2 + step / 2, depth_m / 2 - .5, step):
            for x in (-width_m / 2, width_m / 2):
                mesh.box([x, y, z], [.16, size[0] + .2, size[1] + .2], 3).box([x, y, z], [.22, size[0], size[1]], 2)
    for y in (-depth_m / 2, depth_m / 2):
        mesh.box([rng.uniform(-.3, .3) * width_m, y, 1.05], [1.1, .3, 2.1], 4)
    wall = kit(str(rng.choice(["brick", "plaster", "plaster", "wood", "rock"])))
    return mesh.build([wall, kit(str(rng.choice(["brick", "metal", "dark"]))), kit("dark"), kit("white"), kit("paint")])


def car(rng, kit):
    """A car (or a van) of several boxes on four wheels, along x."""
    length, width, van = rng.uniform(3.6, 4.8), rng.uniform(1.6, 1.9), rng.random() < .25
    low, high = .75, rng.uniform(1.4, 1.55) if not van else 2.2
    cabin = length * (.5 if not van else .85)
    mesh = Mesh().box([0, 0, .3 + low / 2], [length, width, low])
    shift = -length * .06
    mesh.box([shift, 0, (1.05 + high) / 2], [cabin, width * .9, high - 1.0])
    mesh.box([shift, 0, (1.05 + high) / 2 + .02], [cabin * .85, width * .92, (high - 1.05) * .65], 1)
    mesh.box([shift, 0, (1.05 + high) / 2 + .02], [cabin * 1.02, width * .8, (high - 1.05) * .65], 1)
    for x in (-length * .32, length * .32):
        for y in (-width / 2, width / 2):
            mesh.tube([x, y - .1, .32], [x, y + .1, .32], .32, 1, sides=12).tube([x, y - .12, .32], [x, y + .12, .32], .16, 2)
    for y in (-width * .33, width * .33):
        mesh.box([length / 2, y, .75], [.08, .3, .16], 2).box([-length / 2, y, .75], [.08, .3, .16], 3)
    mesh.box([0, 0, .5], [length * 1.02, width * .98, .12], 1)
    return mesh.build([kit("paint"), kit("dark"), kit("white"), kit("paint")])


def person(rng, kit, height_m: float = 1.75):
    """A walking figure of capsules: legs, body, arms, head."""
    h, stride = height_m, rng.uniform(.05, .2)
    mesh = Mesh()
    mesh.tube([stride, .1, 0], [0, .08, h * .48], .07, 1, .1).tube([-stride, -.1, 0], [0, -.08, h * .48], .07, 1, .1)
    mesh.ball([0, 0, h * .63], [.14, .22, h * .2], 0).ball([0, 0, h * .92], [.11, .1, h * .08], 2)
    mesh.tube([stride, -.24, h * .45], [0, -.2, h * .76], .05, 0, .06).tube([-stride, .24, h * .45], [0, .2, h * .76], .05, 0, .06)
    mesh.ball([-.02, 0, h * .95], [.12, .11, h * .06], 3)
    return mesh.build([kit("cloth"), kit("cloth"), kit("skin"), kit("dark")], smooth=True)


def lamp_post(rng, kit, height_m: float):
    """A post with an arm and a lamp, or a sign."""
    mesh = Mesh().tube([0, 0, 0], [0, 0, height_m], .07, 0, .05, 7)
    if rng.random() < .5:
        mesh.tube([0, 0, height_m], [1.2, 0, height_m + .2], .05).box([1.2, 0, height_m + .2], [.6, .2, .12], 1)
    else:
        mesh.box([0, 0, height_m * .8], [.08, .7, .7], 1)
    return mesh.build([kit("metal"), kit("paint")])


def table(rng, kit, width_m: float, depth_m: float, height_m: float):
    """A table, a desk or a bench: a top on four legs."""
    mesh = Mesh().box([0, 0, height_m - .02], [width_m, depth_m, .04])
    for x in (-1, 1):
        for y in (-1, 1):
            mesh.box([x * (width_m / 2 - .05), y * (depth_m / 2 - .05), height_m / 2], [.05, .05, height_m], 1)
    return mesh.build([kit(str(rng.choice(["wood", "wood", "white", "paint"]))), kit("wood")])


def chair(rng, kit):
    """A chair with a back, facing +x."""
    mesh = Mesh().box([0, 0, .45], [.44, .44, .05], 1).box([-.21, 0, .72], [.04, .42, .5], 1)
    for x in (-.19, .19):
        for y in (-.19, .19):
            mesh.box([x, y, .22], [.04, .04, .44])
    return mesh.build([kit("wood"), kit(str(rng.choice(["cloth", "wood", "paint"])))])


def sofa(rng, kit, width_m: float):
    """A sofa or an armchair, facing +x."""
    mesh = Mesh().box([0, 0, .22], [.85, width_m, .44]).box([-.36, 0, .55], [.2, width_m, .7])
    for y in (-width_m / 2, width_m / 2):
        mesh.box([0, y, .35], [.85, .18, .6])
    for _ in range(rng.integers(0, 4)):
        mesh.box([-.12, rng.uniform(-.4, .4) * width_m, .6], [.14, .4, .34], 1, rng.uniform(-.4, .4))
    return mesh.build([kit("cloth"), kit("cloth")])


def shelf(rng, kit, width_m: float, height_m: float, depth_m: float = .35, filling: str = "books"):
    """A rack along x with boards, filled with books, or with boxes in a warehouse."""
    mesh, boards = Mesh(), max(2, int(height_m / (.38 if filling == "books" else rng.uniform(1.1, 1.6))))
    gap = height_m / boards
    for x in (-width_m / 2, width_m / 2):
        for y in (-depth_m / 2, depth_m / 2):
            mesh.box([x, y, height_m / 2], [.06, .06, height_m], 0)
    for k in range(boards + 1):
        mesh.box([0, 0, k * gap * .98 + .03], [width_m, depth_m, .05 if filling == "books" else .1], 0)
        x = -width_m / 2 + .06
        while k < boards and x < width_m / 2 - .1:
            size = rng.uniform(.03, .08) if filling == "books" else rng.uniform(.4, 1.1)
            tall = gap * rng.uniform(.45, .85)
            if rng.random() < .85 and x + size < width_m / 2:
                mesh.box([x + size / 2, rng.uniform(-.1, .1) * depth_m, k * gap * .98 + .08 + tall / 2],
                         [size * .94, depth_m * rng.uniform(.6, .95), tall], int(rng.integers(1, 6)))
            x += size + (rng.uniform(0, .02) if filling == "books" else rng.uniform(.02, .3))
    cover = ["paint", "cloth", "card", "paint", "white"] if filling == "books" else ["card", "card", "card", "paint", "metal"]
    return mesh.build([kit("wood" if filling == "books" else "metal"), *[kit(c) for c in cover]])


def crates(rng, kit, size_m: float):
    """A pallet with a stack of boxes."""
    mesh, n = Mesh().box([0, 0, .07], [size_m * 1.2, size_m * 1.1, .14], 0), int(rng.integers(1, 4))
    for k in range(n):
        for x in (-1, 1):
            if rng.random() < .85:
                mesh.box([x * size_m * .28, 0, .14 + size_m * (.25 + .5 * k)], size_m * np.array([.52, .9, .47]),
                         int(rng.integers(1, 4)), rng.normal(0, .04))
    return mesh.build([kit("wood"), kit("card"), kit("card"), kit("paint")])


def plant(rng, kit, height_m: float):
    """A pot plant."""
    mesh = Mesh().tube([0, 0, 0], [0, 0, height_m * .3], height_m * .12, 0, height_m * .16)
    for _ in range(9):
        end = np.array([*rng.normal(0, height_m * .2, 2), height_m * rng.uniform(.5, 1)])
        mesh.tube([0, 0, height_m * .25], end, .008, 1, .004, 4)
        mesh.cards(end + rng.normal(0, height_m * .06, (12, 3)), height_m * .10, rng, 1)
    return mesh.build([kit("tile"), kit("leaf")])


def trinket(rng, kit, size_m: float):
    """One of many small things for a table: cup, bottle, box stack, ball, cone, book pile, figure."""
    mesh, s, kind = Mesh(), size_m, rng.integers(0, 8)
    if kind == 0:
        mesh.tube([0, 0, 0], [0, 0, s], s * .4, 0, s * .45, 14).tube([0, 0, s * .98], [0, 0, s * 1.001], s * .38, 1, sides=14)
        mesh.tube([s * .4, 0, s * .25], [s * .62, 0, s * .5], s * .06, 0).tube([s * .62, 0, s * .5], [s * .42, 0, s * .8], s * .06, 0)
    elif kind == 1:
        mesh.tube([0, 0, 0], [0, 0, s * 1.1], s * .28, 0).tube([0, 0, s * 1.1], [0, 0, s * 1.5], s * .28, 0, s * .09)
        mesh.tube([0, 0, s * 1.5], [0, 0, s * 1.9], s * .09, 1).tube([0, 0, s * .3], [0, 0, s * .8], s * .285, 2)
    elif kind == 2:
        for k in range(rng.integers(1, 4)):
            mesh.box([0, 0, s * (.3 + .6 * k)], s * np.array([.9, .7, .6]) * (1 - .15 * k), k, rng.uniform(-.5, .5))
    elif kind == 3:
        mesh.ball([0, 0, s * .5], [s * .5] * 3, 0, rng, rng.choice([0, .06]), 12, 18)
    elif kind == 4:
        mesh.tube([0, 0, 0], [0, 0, s * 1.3], s * .5, 0, .001, 16)
    elif kind == 5:
        for k in range(rng.integers(2, 6)):
            mesh.box([0, 0, s * (.1 + .2 * k)], s * np.array([1.3, .95, .19]), k % 3, rng.uniform(-.3, .3))
    elif kind == 6:
        mesh.ball([0, 0, s * .55], s * np.array([.4, .4, .55]), 0, None, 0, 10, 14).ball([0, 0, s * 1.3], [s * .32] * 3, 1, None, 0, 10, 14)
        mesh.tube([0, s * .3, s * 1.5], [0, s * .4, s * 1.75], s * .1, 2).tube([0, -s * .3, s * 1.5], [0, -s * .4, s * 1.75], s * .1, 2)
    else:
        for k in range(12):
            a, b = 2 * np.pi * k / 12, 2 * np.pi * (k + 1) / 12
            mesh.tube(s * np.array([.45 * np.cos(a), .45 * np.sin(a), .16]), s * np.array([.45 * np.cos(b), .45 * np.sin(b), .16]), s * .16, k % 2, sides=8)
    return mesh.build([kit("toy"), kit("toy"), kit("toy")], smooth=bool(kind in (3, 6)))


def framed(rng, width_m: float, height_m: float):
    """A picture: an upright board facing -y whose front shows drawn graphics."""
    mesh = Mesh().add(np.array([[-.5, -.02, -.5], [.5, -.02, -.5], [.5, -.02, .5], [-.5, -.02, .5]]) * [width_m, 1, height_m],
                      [[0, 1, 2, 3]])
    thing = mesh.build([picture(poster(rng, 192, max(32, int(192 * height_m / width_m))))])
    thing.data.uv_layers[0].data.foreach_set("uv", np.array([0, 0, 1, 0, 1, 1, 0, 1], np.float32))
    return thing
