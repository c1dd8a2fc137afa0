"""Procedural materials with detail at several scales: a pattern, fine grain and coarse blotches, random colours."""
import colorsys

import bpy
import numpy as np

# role: (hue range, saturation range, value range, patterns, feature size range in metres)
ROLES = {
    "asphalt": ((.55, .70), (.0, .12), (.12, .30), ("noise",), (.2, .6)),
    "grass": ((.18, .34), (.4, .8), (.15, .40), ("noise", "voronoi"), (.2, .8)),
    "earth": ((.04, .13), (.3, .6), (.20, .50), ("noise", "voronoi"), (.2, 1.0)),
    "rock": ((.03, .65), (.05, .25), (.25, .60), ("noise", "voronoi", "ridged"), (.3, 1.2)),
    "sand": ((.08, .13), (.2, .5), (.45, .80), ("noise", "wave"), (.2, .8)),
    "brick": ((.0, .12), (.2, .7), (.30, .75), ("brick",), (.15, .35)),
    "plaster": ((.0, 1.0), (.05, .35), (.50, .90), ("noise", "plain", "noise"), (.3, 1.0)),
    "wood": ((.04, .11), (.4, .8), (.20, .65), ("wave", "planks"), (.05, .2)),
    "leaf": ((.15, .38), (.4, .9), (.12, .45), ("noise", "voronoi"), (.1, .3)),
    "autumn": ((.03, .15), (.6, .95), (.35, .75), ("noise", "voronoi"), (.1, .3)),
    "bark": ((.04, .12), (.15, .5), (.10, .40), ("stripes", "voronoi"), (.04, .15)),
    "metal": ((.5, .7), (.0, .2), (.25, .70), ("noise", "planks"), (.2, .6)),
    "cloth": ((.0, 1.0), (.2, .8), (.25, .80), ("checker", "stripes", "voronoi", "noise"), (.05, .25)),
    "tile": ((.0, 1.0), (.05, .5), (.30, .85), ("checker", "brick", "voronoi"), (.2, .7)),
    "paint": ((.0, 1.0), (.4, .95), (.30, .90), ("plain", "noise", "stripes"), (.2, .6)),
    "toy": ((.0, 1.0), (.4, .95), (.35, .95), ("plain", "noise", "voronoi", "checker", "stripes"), (.03, .10)),
    "card": ((.06, .11), (.25, .5), (.40, .75), ("noise", "planks"), (.1, .4)),
    "water": ((.45, .62), (.3, .7), (.12, .40), ("noise", "wave"), (.6, 3.0)),
    "skin": ((.03, .09), (.3, .6), (.30, .85), ("plain",), (.1, .3)),
    "dark": ((.0, 1.0), (.0, .3), (.03, .12), ("noise",), (.2, .5)),
    "white": ((.0, 1.0), (.0, .1), (.75, .95), ("plain", "noise"), (.2, .5)),
}


class Kit:
    """Random materials of one world: `kit("wood")` gives a new one each time, all under one colour cast."""

    def __init__(self, rng):
        self.rng, self.cast = rng, 1 + rng.normal(0, 0.06, 3)

    def __call__(self, role: str, scale: float = 1.0):
        """A new material for a role of ROLES; `scale` enlarges its features. Raises KeyError on other roles."""
        rng, (hue, saturation, value, patterns, size) = self.rng, ROLES[role]
        base = np.array([rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)])
        colours = []
        for _ in range(3):
            h, s, v = base + rng.normal(0, (0.02, 0.08, 0.10))
            colours.append(np.array(colorsys.hsv_to_rgb(h % 1, np.clip(s, 0, 1), np.clip(v, .02, .95))) ** 2 * self.cast)
        return _textured(rng, colours, str(rng.choice(patterns)), scale * rng.uniform(*size),
                         glossy=role in ("metal", "paint", "toy") and rng.random() < 0.35)


def _node(tree, kind: str, **inputs):
    """A shader node with values or links for its inputs (spaces as underscores)."""
    node = tree.nodes.new("ShaderNode" + kind)
    for key, value in inputs.items():
        socket = node.inputs[key.replace("_", " ")]
        if isinstance(value, bpy.types.NodeSocket):
            tree.links.new(value, socket)
        else:
            socket.default_value = value
    return node


def _ramp(tree, factor, stops):
    """A colour ramp: stops are (position, rgb)."""
    node = _node(tree, "ValToRGB", Fac=factor)
    elements = node.color_ramp.elements
    while len(elements) < len(stops):
        elements.new(0.5)
    for element, (position, rgb) in zip(elements, stops):
        element.position, element.color = position, (*np.clip(rgb, 0, 1), 1)
    return node.outputs[0]


def _multiply(tree, first, second):
    node = tree.nodes.new("ShaderNodeMix")
    node.data_type, node.blend_type = "RGBA", "MULTIPLY"
    node.inputs[0].default_value = 1.0
    tree.links.new(first, node.inputs[6])
    tree.links.new(second, node.inputs[7])
    return node.outputs[2]


def _pattern(tree, rng, pattern, size_m, solid, flat, colours):
    """The colour socket of one pattern; `solid` are object coordinates, `flat` are UVs, both in metres."""
    if pattern in ("brick", "planks"):
        node = _node(tree, "TexBrick", Vector=flat, Scale=1.0, Mortar_Size=size_m * rng.uniform(.02, .1),
                     Brick_Width=size_m * (rng.uniform(1.5, 2.5) if pattern == "brick" else rng.uniform(5, 9)),
                     Row_Height=size_m * rng.uniform(.6, 1), Color1=(*colours[0], 1), Color2=(*colours[1] * .7, 1),
                     Mortar=(*colours[2] * rng.choice([.4, 1.6]), 1))
        return node.outputs[0]
    if pattern == "checker":
        return _node(tree, "TexChecker", Vector=flat, Scale=1 / size_m, Color1=(*colours[0], 1),
                     Color2=(*colours[1] * rng.uniform(.2, .8), 1)).outputs[0]
    stops = [(.2, colours[0] * .7), (.5, colours[1]), (.75, colours[2] * 1.4)]
    if pattern == "voronoi":
        node = _node(tree, "TexVoronoi", Vector=solid, Scale=.7 / size_m)
        return _ramp(tree, node.outputs[0], stops)
    if pattern in ("wave", "stripes"):
        node = _node(tree, "TexWave", Vector=solid if pattern == "wave" else flat, Scale=.3 / size_m, Detail=2.0,
                     Distortion=float(rng.uniform(2, 9) if pattern == "wave" else rng.uniform(0, 2)))
        node.bands_direction = str(rng.choice(["X", "Y", "DIAGONAL"]))
        return _ramp(tree, node.outputs[1], stops)
    node = _node(tree, "TexNoise", Vector=solid, Scale=1 / size_m, Detail=3.0, Roughness=.6)
    if pattern == "ridged":
        node.noise_type = "RIDGED_MULTIFRACTAL"
    spread = .02 if pattern == "plain" else .18
    return _ramp(tree, node.outputs[0], [(.5 - spread, colours[0] * (1 if pattern == "plain" else .55)),
                                         (.5, colours[0]), (.5 + spread, colours[1] * (1 if pattern == "plain" else 1.5))])


def _textured(rng, colours, pattern, size_m, glossy):
    material = bpy.data.materials.new(pattern)
    tree = material.node_tree
    tree.nodes.clear()
    coords = _node(tree, "TexCoord")
    shift = _node(tree, "VectorMath", Vector=coords.outputs["Object"])   # so that equal objects differ between worlds
    shift.inputs[1].default_value = rng.uniform(0, 50, 3)
    colour = _pattern(tree, rng, pattern, float(size_m), shift.outputs[0], coords.outputs["UV"], colours)
    grain = 0.12 if pattern == "plain" else rng.uniform(.25, .6)
    for size, strength in ((size_m * .12, grain), (size_m * 7, grain * .8)):
        noise = _node(tree, "TexNoise", Vector=shift.outputs[0], Scale=1 / size, Detail=2.0)
        colour = _multiply(tree, colour, _ramp(tree, noise.outputs[0], [(.3, np.full(3, 1 - strength)), (.7, np.ones(3))]))
    if glossy:
        surface = _node(tree, "BsdfPrincipled", Base_Color=colour, Roughness=float(rng.uniform(.25, .5)))
    else:
        surface = _node(tree, "BsdfDiffuse", Color=colour)
    _output(tree, material, colour, surface)
    return material


def _output(tree, material, colour, surface) -> None:
    """The surface plus a faint glow of its own colour, in place of the light that bounces: shadows are not black."""
    glow = _node(tree, "Emission", Color=colour, Strength=.13)
    both = tree.nodes.new("ShaderNodeAddShader")
    tree.links.new(surface.outputs[0], both.inputs[0])
    tree.links.new(glow.outputs[0], both.inputs[1])
    _node(tree, "OutputMaterial", Surface=both.outputs[0])
    material.cycles.emission_sampling = "NONE"      # it lights nothing else


def picture(image_rgb: np.ndarray):
    """A material that shows an image (h, w, 3) uint8 over UVs from 0 to 1: posters and signs."""
    h, w = image_rgb.shape[:2]
    image = bpy.data.images.new("picture", w, h)
    rgba = np.dstack([image_rgb[::-1].astype(np.float32) / 255, np.ones((h, w), np.float32)])
    image.pixels.foreach_set(rgba.ravel())
    image.pack()
    material = bpy.data.materials.new("picture")
    tree = material.node_tree
    tree.nodes.clear()
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image = image
    surface = _node(tree, "BsdfDiffuse", Color=texture.outputs[0])
    _output(tree, material, texture.outputs[0], surface)
    return material
