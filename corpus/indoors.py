"""The domains under a roof: indoor walk, table top, warehouse or corridor.

Shells (walls, ceilings) cast no shadow, so that the ambient light comes in and rooms are not dark without bounces.
"""
import bpy
import numpy as np

from corpus import props
from corpus.shapes import Mesh, place
from corpus.worlds import Mover, Request, World, camera, is_clear, scatter, walkers


def room(rng, kit, x0, x1, y0, y1, height_m: float, floor="wood", wall="plaster") -> None:
    """Floor, four walls with skirting and perhaps panels, a ceiling with beams."""
    cx, cy, w, d, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, height_m
    Mesh().box([cx, cy, -.1], [w + .4, d + .4, .2]).build([kit(floor)])
    shell = Mesh().box([cx, cy, h + .1], [w + .4, d + .4, .2], 4)
    for k, (at, size) in enumerate([((cx, y1), (w, .1)), ((cx, y0), (w, .1)), ((x0, cy), (.1, d)), ((x1, cy), (.1, d))]):
        shell.box([*at, h / 2], [*size, h], k).box([*at, .07], [size[0] + .04, size[1] + .04, .14], 5)
    for y in np.arange(y0, y1, rng.uniform(1, 3)) if rng.random() < .4 else []:
        shell.box([cx, y, h - .08], [w, .14, .16], 5)
    same = kit(wall)
    shell.build([kit(wall) if rng.random() < .3 else same for _ in range(4)] + [kit("white"), kit("wood")], shadow=False)


def lamp(rng, xyz, watt: float, size_m: float = .6) -> None:
    """A square area lamp that shines down."""
    light = bpy.data.lights.new("lamp", "AREA")
    light.energy, light.size = watt, size_m
    light.color = np.clip(np.array([1, .85, .65]) + rng.normal(0, .08, 3) + rng.uniform(0, .3) * np.array([0, .4, 1]), .3, 1.2)
    thing = bpy.data.objects.new("lamp", light)
    thing.location = xyz
    bpy.context.scene.collection.objects.link(thing)


def hang_pictures(rng, x0, x1, y0, y1, path, count: int) -> None:
    """Pictures on the four walls, at eye height."""
    for _ in range(count):
        side, width, height = rng.integers(0, 4), rng.uniform(.4, 1.5), rng.uniform(.4, 1.1)
        u = rng.uniform(.1, .9)
        x, y = [(x0 + u * (x1 - x0), y1 - .07), (x1 - .07, y0 + u * (y1 - y0)), (x0 + u * (x1 - x0), y0 + .07), (x0 + .07, y0 + u * (y1 - y0))][side]
        if is_clear(path, (x, y), .5):
            place(props.framed(rng, width, height), (x, y, rng.uniform(1.3, 1.9)), [0, -np.pi / 2, np.pi, np.pi / 2][side])


def indoor(rng, kit, request: Request) -> World:
    """A furnished room, walked through."""
    path = camera(rng, request, 2.6, (1.1, 1.65), (-20, -5), {"forward": 3, "diagonal": 4, "lateral": 2.5, "orbit": 2, "crane": .7}, slide=.75)
    eyes = path.eyes
    x0, x1 = min(eyes[:, 0].min() - 1.2, -rng.uniform(1.6, 3.2)), max(eyes[:, 0].max() + 1.2, rng.uniform(1.6, 3.2))
    y0, y1 = min(eyes[:, 1].min() - 1.0, -.8), max(eyes[:, 1].max() + 2.2, rng.uniform(3.8, 7.5))
    height = rng.uniform(2.4, 3.3)
    room(rng, kit, x0, x1, y0, y1, height, str(rng.choice(["wood", "tile", "cloth"])), str(rng.choice(["plaster", "plaster", "brick", "wood", "cloth"])))
    along = lambda: [(rng.uniform(x0 + .5, x1 - .5), y1 - .35, np.pi), (x0 + .3, rng.uniform(y0 + .5, y1 - .5), -np.pi / 2),
                     (x1 - .3, rng.uniform(y0 + .5, y1 - .5), np.pi / 2)][rng.integers(3)]
    for _ in range(rng.integers(3, 8)):                    # along the walls
        x, y, yaw = along()
        if is_clear(path, (x, y), 1.1):
            make, turned = [(lambda: props.shelf(rng, kit, rng.uniform(.7, 1.6), rng.uniform(.8, 2.1)), 0),
                            (lambda: props.sofa(rng, kit, rng.uniform(.9, 2)), np.pi / 2),
                            (lambda: props.plant(rng, kit, rng.uniform(.6, 1.5)), 0),
                            (lambda: props.table(rng, kit, rng.uniform(.8, 1.5), .5, .8), 0)][rng.integers(4)]
            place(make(), (x, y, 0), yaw + turned)
    for xy in scatter(rng, path, int(rng.integers(4, 10)), 1.3, 5, request.wide_rad / 2 + .2, .95):
        if x0 + .4 < xy[0] < x1 - .4 and y0 + .4 < xy[1] < y1 - .4:
            _furnish(rng, kit, xy)
    Mesh().box([*path.eyes[0, :2] + [rng.uniform(-.5, .5), 1.8], .005], [rng.uniform(1, 2), rng.uniform(1.2, 2.5), .015], 0, rng.normal(0, .3)).build([kit("cloth", 2)])
    hang_pictures(rng, x0, x1, y0, y1, path, int(rng.integers(2, 9)))
    for _ in range(rng.integers(1, 4)):
        lamp(rng, (rng.uniform(x0, x1) * .7, rng.uniform(y0, y1) * .8, height - .15), rng.uniform(6, 22))
    movers = []
    if request.movers:
        for xy in scatter(rng, path, 3, 1.6, 4, request.wide_rad / 3, 1.2)[:2]:
            mesh = Mesh().tube([0, 0, 0], [0, 0, -.9], .012, 1).ball([0, 0, -1], [.17, .17, .15], 0)
            movers.append(Mover(mesh.build([kit("paint"), kit("dark")]), np.array([*xy, height]), np.zeros(3), 6 * rng.random(), rng.uniform(.2, .5), .6))
        movers += walkers(rng, kit, path, 1, 2.5, 4.5, request.wide_rad / 3)
    return World(path, movers, True)


def _furnish(rng, kit, xy) -> None:
    """A table with chairs and small things, a sofa, a plant, a box or a stool in mid-room."""
    kind, yaw = rng.integers(0, 5), 6.3 * rng.random()
    if kind <= 1:
        width, depth, height = rng.uniform(.7, 1.5), rng.uniform(.6, .9), rng.choice([.45, .74, .74])
        place(props.table(rng, kit, width, depth, height), (*xy, 0), yaw)
        axis, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        for _ in range(rng.integers(1, 6)):
            spot = xy + axis * rng.uniform(-.4, .4) * width + across * rng.uniform(-.4, .4) * depth
            place(props.trinket(rng, kit, rng.uniform(.08, .2)), (*spot, height), 6 * rng.random())
        for side in (-1, 1):
            if rng.random() < .6:
                place(props.chair(rng, kit), (*(xy + side * across * (depth / 2 + .25)), 0), yaw - side * np.pi / 2 + rng.normal(0, .3))
    elif kind == 2:
        place(props.sofa(rng, kit, rng.uniform(.8, 1.8)), (*xy, 0), yaw)
    elif kind == 3:
        place(props.plant(rng, kit, rng.uniform(.5, 1.3)), (*xy, 0), yaw)
    else:
        place(props.crates(rng, kit, rng.uniform(.3, .6)) if rng.random() < .5 else props.chair(rng, kit), (*xy, 0), yaw)


def tabletop(rng, kit, request: Request) -> World:
    """Small things on a table, the room behind out of reach but in view."""
    top, reach = .74, rng.uniform(.6, 1.0)
    path = camera(rng, request, reach, (top + .25, top + .6), (-38, -20), {"orbit": 6, "lateral": 2.5, "diagonal": 1.5, "crane": 1}, turn_deg=(5, 22), slide=1)
    centre = np.array([0, reach, 0])
    width, depth = rng.uniform(1.0, 1.8), rng.uniform(.7, 1.2)
    depth = min(depth, 2 * reach - .25)
    if rng.random() < .3:
        mesh = Mesh().tube(centre + [0, 0, top - .04], centre + [0, 0, top], depth / 2, sides=28).tube(centre, centre + [0, 0, top], .06)
        mesh.build([kit(str(rng.choice(["wood", "cloth", "tile"])), .6)])
    else:
        place(props.table(rng, kit, width, depth, top), centre, rng.normal(0, .3))
        if rng.random() < .5:
            Mesh().box(centre + [0, 0, top + .002], [width * .6, depth * .7, .006], 0, rng.normal(0, .2)).build([kit("cloth", .5)])
    taken = []
    for _ in range(rng.integers(14, 34)):
        spot, size = centre[:2] + rng.uniform(-.42, .42, 2) * [width, depth], np.exp(rng.uniform(np.log(.045), np.log(.16)))
        if all(np.linalg.norm(spot - s) > (size + r) * .65 for s, r in taken) and is_clear(path, spot, .17 + size):
            taken.append((spot, size))
            place(props.trinket(rng, kit, size), (*spot, top), 6.3 * rng.random())
    wide = rng.uniform(1.8, 3.5)
    room(rng, kit, -wide, wide, -1.8, reach + rng.uniform(1.2, 3.5), 2.7, str(rng.choice(["wood", "tile", "cloth"])), str(rng.choice(["plaster", "brick", "wood"])))
    for _ in range(rng.integers(3, 8)):
        spot = (rng.uniform(-wide + .4, wide - .4), reach + depth / 2 + rng.uniform(.5, 1.0))
        item = [lambda: props.shelf(rng, kit, rng.uniform(.7, 1.4), rng.uniform(.8, 1.9)), lambda: props.chair(rng, kit),
                lambda: props.plant(rng, kit, rng.uniform(.7, 1.4)), lambda: props.sofa(rng, kit, 1.4)][rng.integers(4)]()
        place(item, (*spot, 0), rng.choice([0, -np.pi / 2]))
    for _ in range(rng.integers(1, 3)):
        lamp(rng, (rng.uniform(-1, 1), reach + rng.uniform(-.8, .8), rng.uniform(1.7, 2.5)), rng.uniform(2.5, 9), rng.uniform(.1, .6))
    movers = []
    if request.movers:
        spot = centre + [rng.uniform(-.3, .3) * width, rng.uniform(-.3, .3) * depth, top + .002]
        movers.append(Mover(props.trinket(rng, kit, rng.uniform(.06, .1)), spot, np.zeros(3), spin=rng.uniform(1, 5),
                            sweep=np.array([rng.uniform(.05, .2), rng.uniform(-.1, .1), 0])))
    return World(path, movers, True)


def warehouse(rng, kit, request: Request) -> World:
    """Racks of boxes on both sides of an aisle, or a corridor of doors, pipes and lamps."""
    path = camera(rng, request, 4.5, (1.3, 2.0), (-14, -2), {"forward": 5, "diagonal": 3.5, "lateral": 1.5, "crane": .7}, turn_deg=(10, 32))
    corridor = rng.random() < .3
    half, height, length = (rng.uniform(1.2, 2.0), rng.uniform(2.5, 3.2), 34) if corridor else (rng.uniform(1.5, 2.6), rng.uniform(4.5, 7), 42)
    half = max(half, np.abs(path.eyes[:, 0]).max() + .7)
    wide = half + (.05 if corridor else rng.uniform(5, 11))
    room(rng, kit, -wide, wide, -7, length, height, str(rng.choice(["asphalt", "tile", "asphalt"])), str(rng.choice(["metal", "plaster", "brick"])))
    if corridor:
        _corridor(rng, kit, half, height, length)
    else:
        _aisles(rng, kit, half, wide, height, length)
    for xy in scatter(rng, path, int(rng.integers(4, 14)), 2.5, 20, request.wide_rad / 2, 1.3):
        if abs(xy[0]) < half - .3:
            item = props.crates(rng, kit, rng.uniform(.5, 1)) if rng.random() < .6 else props.plant(rng, kit, 1.2) if corridor else props.person(rng, kit)
            place(item, (*xy, 0), rng.normal(0, .3))
    for y in np.arange(rng.uniform(0, 4), length, rng.uniform(5, 10)):
        lamp(rng, (rng.uniform(-.3, .3), y, height - .2), rng.uniform(20, 70) * (height / 4), 1.2)
    movers = []
    if request.movers:
        movers = walkers(rng, kit, path, int(rng.integers(1, 4)), 3.5, 11, .2)
        if rng.random() < .5:
            movers.append(Mover(props.crates(rng, kit, .9), np.array([0, rng.uniform(6, 12), .12]), np.array([rng.uniform(-.3, .3), rng.choice([-1, 1]) * 1.5, 0])))
    return World(path, movers, True)


def _aisles(rng, kit, half, wide, height, length) -> None:
    """Racks along the aisle and behind it, pillars, floor lines."""
    racks = [props.shelf(rng, kit, 2.7, rng.uniform(.55, .9) * height, rng.uniform(.9, 1.3), "boxes") for _ in range(4)]
    for rack in racks:
        place(rack, (0, -200, 0))
    for side in (-1, 1):
        for x in np.arange(half + .7, wide, 3.4):
            for y in np.arange(-4, length - 3, 2.9):
                if rng.random() < .88:
                    place(racks[rng.integers(4)], (side * x, y, 0), np.pi / 2 * side, copy=True)
    lines = Mesh()
    for side in (-1, 1):
        lines.box([side * (half - .15), length / 2, .004], [.1, length + 10, .01])
        for y in np.arange(2, length, 8.7):
            lines.box([side * (half - .05), y, height / 2], [.25, .25, height], 1)
    for y in np.arange(1, length, 6):
        lines.box([0, y, height - .35], [2 * wide, .25, .4], 2)
    lines.build([kit("paint"), kit("paint"), kit("metal")], shadow=False)


def _corridor(rng, kit, half, height, length) -> None:
    """Doors, notices, pipes and skirting along two walls."""
    mesh = Mesh()
    for side in (-1, 1):
        for y in np.arange(rng.uniform(1, 3), length, rng.uniform(2.6, 4.5)):
            mesh.box([side * half, y, 1.02], [.14, .95, 2.04], 0).box([side * (half - .06), y, 1.02], [.06, 1.1, 2.12], 1)
            mesh.box([side * (half - .1), y + .35, 1.0], [.1, .12, .05], 2).box([side * (half - .09), y, 1.02], [.06, .9, 2.0], 3)
            if rng.random() < .6:
                thing = props.framed(rng, rng.uniform(.4, 1.2), rng.uniform(.4, .9))
                place(thing, (side * (half - .07), y + 1.4, rng.uniform(1.4, 1.7)), -side * np.pi / 2)
        for _ in range(rng.integers(1, 4)):
            z, r = rng.uniform(height * .7, height - .1), rng.uniform(.03, .1)
            mesh.tube([side * (half - .15), -6, z], [side * (half - .15), length, z], r, 2)
    for y in np.arange(2, length, 4.5):
        mesh.box([0, y, height - .03], [.5, 1.2, .06], 4)
    mesh.build([kit("wood"), kit("metal"), kit("metal"), kit(str(rng.choice(["wood", "paint"]))), kit("white")], shadow=False)
