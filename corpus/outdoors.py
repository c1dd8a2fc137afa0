"""The domains under the open sky: street, terrain, forest and (test only) harbour."""
import numpy as np

from corpus import props
from corpus.shapes import Mesh, place
from corpus.worlds import Mover, Request, World, camera, is_clear, scatter, smooth_noise, walkers


def hills(rng, kit, near_m: float, height_m: float, role: str = "grass") -> None:
    """A ring of hills about the world: something to see at the horizon."""
    angle, radius = np.linspace(0, 2 * np.pi, 73), np.linspace(near_m, near_m * 2, 9)
    lift = smooth_noise(rng, angle * 40, radius, 50, 4)
    lift[:, -1] = lift[:, 0]
    top = (np.abs(lift) + .25) * height_m * ((radius - near_m) / near_m)[:, None] - .5
    mesh = Mesh().field(angle, radius, top)
    a, r = mesh.verts[0][:, 0].copy(), mesh.verts[0][:, 1].copy()
    mesh.verts[0][:, 0], mesh.verts[0][:, 1] = r * np.cos(a), r * np.sin(a)
    mesh.build([kit(role, 12)], smooth=True)


def street(rng, kit, request: Request) -> World:
    """A road along +y between pavements, houses, trees, parked and moving cars."""
    path = camera(rng, request, 10, (1.3, 2.3), (-9, 0), {"forward": 5, "pure_forward": 1.5, "diagonal": 3, "lateral": 1.5}, slide=.15)
    lane, length = rng.uniform(2.8, 3.6), 140
    shift = rng.choice([-1, 1]) * lane / 2                 # the camera drives in a lane
    path.eyes[:, 0] += shift
    edge = lane + .3
    Mesh().box([0, length / 2 - 40, -.1], [2 * edge, length + 80, .2]).build([kit("asphalt", 1.5)])
    Mesh().box([0, 40, -.35], [600, 600, .4]).build([kit(str(rng.choice(["grass", "grass", "earth", "tile"])), 1.5)])
    marks, pavement = Mesh(), Mesh()
    for y in np.arange(-20, length, rng.uniform(4, 8)):
        marks.box([0, y, 0.01], [.15, 2, .02])
    for side in (-1, 1):
        marks.box([side * (edge - .25), length / 2 - 40, .01], [.12, length + 80, .02])
        pavement.box([side * (edge + 1.3), length / 2 - 40, 0], [2.6, length + 80, .28])
    for _ in range(rng.integers(2, 9)):
        marks.box([rng.uniform(-edge, edge), rng.uniform(2, 40), .004], [rng.uniform(.3, 2), rng.uniform(.3, 3), .01], 1)
    marks.build([kit("white"), kit("asphalt")])
    pavement.build([kit(str(rng.choice(["tile", "brick", "asphalt"])))])
    _roadside(rng, kit, path, edge, dense=rng.random() < .6)
    hills(rng, kit, 250, rng.uniform(20, 90))
    movers = []
    if request.movers:
        for _ in range(rng.integers(1, 4)):
            side = rng.choice([-1, 1])
            start = np.array([side * lane / 2, rng.uniform(9, 35), 0])
            if side * shift > 0:
                start[1] += 8
            movers.append(Mover(props.car(rng, kit), start, np.array([0, side * rng.uniform(3, 9), 0]), side * np.pi / 2))
        movers += walkers(rng, kit, path, int(rng.integers(0, 4)), 5, 18, request.wide_rad / 2)
    return World(path, movers, False)


def _roadside(rng, kit, path, edge: float, dense: bool) -> None:
    """Houses in a row, or trees and bushes with few houses; parked cars, posts, people who stand."""
    trees = [props.tree(rng, kit, rng.uniform(4, 9), rng.random() < .2) for _ in range(2)]
    for template in trees:
        place(template, (0, -300, 0))
    for side in (-1, 1):
        y = rng.uniform(-25, -10)
        while y < 110:
            width, depth = rng.uniform(6, 14), rng.uniform(6, 11)
            spot = (side * (edge + rng.uniform(3, 6) + depth / 2), y + width / 2)
            if rng.random() < (.85 if dense else .3) and is_clear(path, spot, depth * .5 + width * .5 + 1):
                place(props.house(rng, kit, width, depth, int(rng.integers(1, 5))), (*spot, 0), side * np.pi / 2)
            y += width + rng.uniform(.2, 5)
        for y in np.arange(rng.uniform(-8, 2), 90, rng.uniform(5, 16)):
            spot = (side * (edge + rng.uniform(.6, 2.4)), y)
            if rng.random() < .75 and is_clear(path, spot, 1.5):
                place(trees[rng.integers(2)], (*spot, 0), 6 * rng.random(), rng.uniform(.7, 1.1), copy=True)
        for y in np.arange(rng.uniform(3, 12), 70, rng.uniform(10, 25)):
            if is_clear(path, (side * (edge + .4), y), 1.2):
                place(props.lamp_post(rng, kit, rng.uniform(2.5, 6)), (side * (edge + .4), y, .1), 0 if side < 0 else np.pi)
        for y in np.arange(rng.uniform(4, 9), 60, 6.5):
            if rng.random() < .45 and is_clear(path, (side * (edge + .1), y), 3):
                place(props.car(rng, kit), (side * (edge + .1), y, 0), np.pi / 2 + rng.normal(0, .03))
        for _ in range(rng.integers(0, 7)):
            spot = (side * (edge + rng.uniform(1, 2.5)), rng.uniform(4, 35))
            if is_clear(path, spot, 2):
                item = props.rock(rng, kit, rng.uniform(.5, 1.1)) if rng.random() < .6 else props.person(rng, kit)
                place(item, (*spot, .1), 6 * rng.random())


def terrain(rng, kit, request: Request) -> World:
    """A flight over hills with woods, fields, huts and perhaps water, looking down."""
    height = rng.uniform(35, 110)
    down = (-48, -24) if height > 60 else (-38, -20)
    path = camera(rng, request, height * 1.7, (height, height), down, {"forward": 4, "diagonal": 4, "lateral": 2, "orbit": 2},
                  turn_deg=(8, 30))
    reach, relief = 420, height * rng.uniform(.15, .5)
    xs = np.linspace(-reach, reach, 141)
    ys = np.linspace(-reach * .6, reach * 1.4, 141)
    lift = smooth_noise(rng, xs, ys, rng.uniform(150, 400), 5) * relief
    lift -= np.clip(lift - .45 * relief, 0, None) * .4
    fx, fy = (lambda x: np.clip(np.rint((x + reach) / 6), 0, 140).astype(int)), (lambda y: np.clip(np.rint((y + reach * .6) / 6), 0, 140).astype(int))
    ground = lambda xy: lift[fy(xy[1]), fx(xy[0])]
    path.eyes[:, 2] += max(0.0, lift[fy(path.eyes[:, 1]), fx(path.eyes[:, 0])].max())
    Mesh().field(xs, ys, lift).build([kit(str(rng.choice(["grass", "earth", "rock", "sand"])), rng.uniform(15, 60))], smooth=True)
    if rng.random() < .5:
        Mesh().box([0, 0, np.quantile(lift, .2) - .5], [3000, 3000, 1]).build([kit("water", 8)])
    hills(rng, kit, 500, rng.uniform(60, 200), "rock")
    _ground_cover(rng, kit, path, ground, request.wide_rad / 2 + .3, np.quantile(lift, .22))
    movers = []
    if request.movers:
        for xy in scatter(rng, path, 7, height * .9, height * 2.5, request.wide_rad / 2, 5):
            yaw = 6.3 * rng.random()
            thing = place(props.car(rng, kit), (0, 0, 0), scale=rng.uniform(1.5, 2.5))
            movers.append(Mover(thing, np.array([*xy, ground(xy) + 1]), rng.uniform(8, 25) * np.array([np.cos(yaw), np.sin(yaw), 0]), yaw))
    return World(path, movers, False)


def _ground_cover(rng, kit, path, ground, spread, waterline) -> None:
    """Woods in clumps, huts, fields and boulders over a height field."""
    templates = [props.conifer(rng, kit, 9), props.tree(rng, kit, 9), props.rock(rng, kit, 5), props.conifer(rng, kit, 13)]
    for template in templates:
        place(template, (0, -2000, 0))
    height = path.eyes[0, 2]
    for _ in range(rng.integers(5, 22)):
        middle, pick = scatter(rng, path, 1, height * .5, 330, spread, 0)[0], rng.integers(0, 4)
        for xy in middle + rng.normal(0, rng.uniform(6, 30), (rng.integers(4, 40), 2)):
            if ground(xy) > waterline:
                place(templates[pick if rng.random() < .8 else rng.integers(4)], (*xy, ground(xy) - .5), 6 * rng.random(),
                      rng.uniform(.5, 1.5), copy=True)
    homes = [props.house(rng, kit, rng.uniform(8, 18), rng.uniform(7, 11), int(rng.integers(1, 4))) for _ in range(3)]
    for home in homes:
        place(home, (0, -2000, 0))
    for _ in range(rng.integers(0, 4)):
        middle = scatter(rng, path, 1, height * .6, 260, spread * .8, 0)[0]
        for xy in middle + rng.normal(0, 25, (rng.integers(3, 14), 2)):
            if ground(xy) > waterline:
                place(homes[rng.integers(3)], (*xy, ground(xy) - 1), rng.choice([0, np.pi / 2]) + rng.normal(0, .2), rng.uniform(.9, 1.4), copy=True)


def forest(rng, kit, request: Request) -> World:
    """Trunks near and far, bushes, rocks and fallen logs on bumpy ground, with a path or without."""
    path = camera(rng, request, 5, (1.3, 1.9), (-16, -3), {"forward": 5, "diagonal": 4, "lateral": 2, "orbit": 1, "crane": .5})
    xs = np.linspace(-45, 45, 91)
    ys = np.linspace(-20, 70, 91)
    lift = smooth_noise(rng, xs, ys, rng.uniform(14, 40), 4) * rng.uniform(.2, .7)
    ground = lambda xy: lift[int(np.clip(round(xy[1] + 20), 0, 90)), int(np.clip(round(xy[0] + 45), 0, 90))]
    path.eyes[:, 2] += max(ground(eye) for eye in path.eyes) + .1
    Mesh().field(xs, ys, lift).build([kit(str(rng.choice(["grass", "earth", "earth", "autumn"])), 1.5)], smooth=True)
    Mesh().box([0, 0, -2], [700, 700, 1]).build([kit("grass", 6)])
    hills(rng, kit, 110, rng.uniform(20, 50))
    autumn = rng.random() < .25
    kinds = [props.tree(rng, kit, 9, autumn), props.tree(rng, kit, 6, autumn), props.conifer(rng, kit, 9, .36), props.tree(rng, kit, 12, autumn),
             props.rock(rng, kit, 1.1), props.rock(rng, kit, .6), props.rock(rng, kit, .9)]
    for template in kinds:
        place(template, (0, -900, 0))
    spread, share = request.wide_rad / 2 + .35, rng.dirichlet([1.5] * 4)
    for xy in scatter(rng, path, int(rng.integers(40, 105)), 2.2, 55, spread, 1.3):
        pick = rng.choice(4, p=share)
        if pick != 2 or is_clear(path, xy, 3):
            place(kinds[pick], (*xy, ground(xy)), 6 * rng.random(), rng.uniform(.6, 1.3), copy=True)
    for xy in scatter(rng, path, int(rng.integers(25, 70)), 1.7, 30, spread, 1.1):
        place(kinds[rng.integers(4, 7)], (*xy, ground(xy) - .05), 6 * rng.random(), rng.uniform(.25, .9), copy=True)
    logs, tufts = Mesh(), Mesh()
    for xy in scatter(rng, path, int(rng.integers(2, 10)), 2.5, 20, spread, 2.2):
        angle, half = 6.3 * rng.random(), rng.uniform(.8, 2)
        step = half * np.array([np.cos(angle), np.sin(angle), 0])
        middle = np.array([*xy, ground(xy) + .12])
        logs.tube(middle - step, middle + step, rng.uniform(.1, .25))
    logs.tube([0, -900, 0], [0, -901, 0], .1).build([kit("bark")])
    for xy in scatter(rng, path, 260, 1, 18, spread, .8):
        tufts.cards(np.array([*xy, ground(xy) + .05]) + rng.normal(0, .08, (3, 3)), .16, rng)
    tufts.build([kit("leaf")])
    movers = walkers(rng, kit, path, int(rng.integers(1, 4)), 3.5, 12, request.wide_rad / 2.5, ground) if request.movers else []
    return World(path, movers, False)


def harbour(rng, kit, request: Request) -> World:
    """A quay with bollards, stacks of containers and cranes; ships on the water beside it."""
    path = camera(rng, request, 14, (1.6, 5.0), (-14, -4), {"forward": 3, "diagonal": 4, "lateral": 2.5, "orbit": 1, "crane": 1}, slide=.15)
    side = rng.choice([-1, 1])
    edge = side * rng.uniform(3, 7)                       # x of the quay's edge
    Mesh().box([edge - side * 100, 60, -1.5], [200, 500, 3]).build([kit(str(rng.choice(["asphalt", "tile", "brick"])), 2)])
    Mesh().box([edge - side * .3, 60, .1], [.6, 500, .25]).build([kit("paint")])
    xs, ys = np.linspace(0, 160, 81) * side + edge - side * .5, np.linspace(-40, 200, 121)
    Mesh().field(xs if side > 0 else xs[::-1], ys, smooth_noise(rng, xs if side > 0 else xs[::-1], ys, 9, 3) * .12 - 1.2).build([kit("water", 2)])
    Mesh().box([0, 0, -2.4], [3000, 3000, 1]).build([kit("water", 20)])
    hills(rng, kit, 320, rng.uniform(25, 90), "rock")
    bollards = Mesh()
    for y in np.arange(rng.uniform(-4, 3), 90, rng.uniform(4, 9)):
        bollards.tube([edge - side * .7, y, 0], [edge - side * .7, y, .6], .2, 0, .28)
    bollards.build([kit("paint")])
    for y in np.arange(rng.uniform(0, 12), 130, rng.uniform(22, 40)):
        place(_ship(rng, kit, rng.uniform(9, 24)), (edge + side * rng.uniform(4, 11), y + 6, -1.2), np.pi / 2 + rng.normal(0, .1))
    boxes = Mesh()
    for x in np.arange(3.5, 34, rng.uniform(4, 8)):
        for y in np.arange(rng.uniform(4, 12), 100, 8.5):
            spot = (edge - side * (x + 3), y)
            if rng.random() < .45 and is_clear(path, spot, 5.5):
                for level in range(rng.integers(1, 4)):
                    boxes.box([*spot, 1.3 + 2.6 * level], [2.4, 6.1, 2.55], int(rng.integers(0, 6)), rng.normal(0, .01))
    boxes.box([0, -500, 0], [1, 1, 1]).build([kit(r) for r in ("paint", "paint", "paint", "metal", "paint", "white")])
    for y in np.arange(rng.uniform(14, 30), 120, rng.uniform(30, 50)):
        place(_crane(rng, kit, rng.uniform(14, 26)), (edge - side * 5.5, y, 0), 0 if side > 0 else np.pi)
    for spot in scatter(rng, path, 10, 4, 40, .7, 3):
        if side * (edge - spot[0]) > 1:
            place(props.crates(rng, kit, rng.uniform(.8, 1.4)) if rng.random() < .7 else props.car(rng, kit), (*spot, 0), 6 * rng.random())
    movers = []
    if request.movers:
        for _ in range(rng.integers(1, 3)):
            way = rng.choice([-1, 1])
            movers.append(Mover(_ship(rng, kit, rng.uniform(6, 10)), np.array([edge + side * rng.uniform(13, 25), rng.uniform(12, 50), -1.2]),
                                np.array([0, way * rng.uniform(2, 5), 0]), way * np.pi / 2, .04))
        movers += walkers(rng, kit, path, 2, 5, 15, request.wide_rad / 3)
    return World(path, movers, False)


def _ship(rng, kit, length_m: float):
    """A boat along +x, waterline at z = 0: hull with a pointed bow, cabin, mast, rails."""
    long, b, h = length_m, length_m * rng.uniform(.2, .3), length_m * rng.uniform(.09, .14)
    outline = np.array([[-.5, -.4], [.25, -.5], [.5, 0], [.25, .5], [-.5, .4]]) * [long, b]
    low, high = np.c_[outline * .88, np.full(5, -.5)], np.c_[outline, [h, h, h * 1.5, h, h]]
    mesh = Mesh().add(np.r_[low, high], [[k, (k + 1) % 5, 5 + (k + 1) % 5, 5 + k] for k in range(5)] + [[5, 6, 7, 8, 9]], 0)
    mesh.box([-long * .15, 0, h * 1.6], [long * .35, b * .6, h * 1.4], 1).box([-long * .15, 0, h * 1.8], [long * .36, b * .62, h * .5], 2)
    mesh.box([-long * .2, 0, h * 2.6], [long * .18, b * .45, h * .9], 1).tube([long * .05, 0, h], [long * .05, 0, long * .45], .06 + long * .004, 3, sides=6)
    mesh.tube([-long * .3, 0, h * 2], [-long * .3, 0, h * 4], long * .02, 3)
    return mesh.build([kit("paint"), kit("white"), kit("dark"), kit("metal")])


def _crane(rng, kit, height_m: float):
    """A harbour crane: four legs, lattice braces and a boom over the water (+x)."""
    mesh, h = Mesh(), height_m
    for x in (-2.5, 2.5):
        for y in (-3, 3):
            mesh.tube([x, y, 0], [x * .7, y * .7, h], .22, sides=6)
        for z in np.arange(3, h, 3.5):
            mesh.tube([x, -3, z], [x, 3, z + 2], .1, sides=5)
    mesh.box([0, 0, h], [5, 5, 1.2]).box([0, 0, h + 1.8], [2.5, 2.2, 2.4], 1)
    mesh.box([h * .35, 0, h + 1.2], [h * 1.2, .8, .7]).tube([0, 0, h + 3], [h * .8, 0, h + 1.5], .08, sides=5)
    mesh.tube([h * .6, 0, h + 1], [h * .6, 0, h * .5], .06, 1, sides=5).box([h * .6, 0, h * .5], [1.2, 1.2, .8], 1)
    return mesh.build([kit("paint"), kit("metal")])
