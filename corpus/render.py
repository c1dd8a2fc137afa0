"""Rendering one shot with Cycles: linear colour and z-depth, frame by frame. Few rays, then the denoiser."""
import os
import tempfile
from pathlib import Path

import bpy
import mathutils
import numpy as np
import OpenEXR

from corpus import indoors, outdoors, props
from corpus.materials import Kit
from corpus.shapes import place
from corpus.worlds import Mover, Request, World

BUILDERS = {"street": outdoors.street, "terrain": outdoors.terrain, "forest": outdoors.forest, "harbour": outdoors.harbour,
            "indoor": indoors.indoor, "tabletop": indoors.tabletop, "warehouse": indoors.warehouse}
CV_FROM_BLENDER = np.diag([1.0, -1.0, -1.0, 1.0])   # Blender's camera looks along -z with y up


def render_shot(domain: str, seed: int, request: Request, width: int, height: int, focal_px: float, samples: int = 2) -> tuple:
    """Build the world of a seed and film it.

    Returns: linear rgb (T, h, w, 3) float32, z-depth (T, h, w) float32 in metres (inf for the sky),
    poses_c2w (T, 4, 4) in OpenCV axes. Pixel centres at integers: the principal point is ((w-1)/2, (h-1)/2).
    """
    rng = np.random.default_rng(seed)
    scene = _fresh_scene(width, height, samples)
    world = BUILDERS[domain](rng, Kit(rng), request)
    if request.kind == "dynamic_subject":
        world.movers.append(_subject(rng, world, request))
    _light(rng, scene, world.indoor)
    camera = _camera(scene, width, height, focal_px)
    poses = world.path.poses_c2w()
    still = request.kind == "zoom"          # one wide picture is enough: the zoom is cut out of it
    rgb, depth = [], []
    for k, pose in enumerate(poses[:1] if still else poses):
        scene.cycles.seed = k + 1           # the same noise in every frame would look like a static pattern
        camera.matrix_world = mathutils.Matrix((pose @ CV_FROM_BLENDER).tolist())
        for mover in world.movers:
            mover.move((k - request.frames / 2) / request.fps)
        colour, z = _render_frame(scene)
        rgb.append(colour)
        depth.append(z)
    return np.stack(rgb), np.stack(depth), poses


def _fresh_scene(width, height, samples):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine, cycles = "CYCLES", scene.cycles
    cycles.device, cycles.samples, cycles.use_adaptive_sampling = "CPU", samples, False
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_quality, cycles.denoising_input_passes, cycles.denoising_prefilter = "FAST", "RGB_ALBEDO", "NONE"
    cycles.max_bounces = cycles.diffuse_bounces = cycles.glossy_bounces = 0
    cycles.use_light_tree, cycles.caustics_reflective, cycles.caustics_refractive = False, False, False
    render = scene.render
    render.threads_mode, render.threads, render.use_persistent_data = "FIXED", 1, True
    render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
    scene.view_layers[0].use_pass_z = True
    image = render.image_settings
    image.media_type, image.file_format = "MULTI_LAYER_IMAGE", "OPEN_EXR_MULTILAYER"
    image.color_depth, image.exr_codec = "32", "NONE"
    return scene


def _camera(scene, width, height, focal_px):
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera, data = camera, camera.data
    data.sensor_fit = "HORIZONTAL" if width >= height else "VERTICAL"
    data.sensor_width = data.sensor_height = 36.0
    data.lens = focal_px / max(width, height) * 36.0
    data.clip_start, data.clip_end = 0.02, 5000
    return camera


def _light(rng, scene, indoor: bool) -> None:
    """Ambient light from the sky colour, and out of doors a sun and a clouded sky that only the camera sees."""
    world = bpy.data.worlds.new("sky")
    scene.world, tree = world, world.node_tree
    ambient = next(n for n in tree.nodes if n.type == "BACKGROUND")
    tint = np.array([.6, .75, 1.0]) * (1 - (warm := rng.uniform(0, .5))) + np.array([1.0, .85, .7]) * warm
    ambient.inputs[0].default_value = (*tint, 1)
    ambient.inputs[1].default_value = rng.uniform(.3, .7) + .3 * indoor
    if indoor:
        return
    light = bpy.data.lights.new("sun", "SUN")
    light.energy, light.angle = rng.uniform(.4, 4.5), np.radians(rng.uniform(.5, 6))
    light.color = np.array([1, .95, .88]) * (1 - warm * .4) + np.array([1, .7, .45]) * warm * .4
    sun = bpy.data.objects.new("sun", light)
    sun.rotation_euler = (np.radians(rng.uniform(15, 68)), 0, rng.uniform(0, 2 * np.pi))
    scene.collection.objects.link(sun)
    _clouds(rng, tree, ambient)


def _clouds(rng, tree, ambient) -> None:
    new = tree.nodes.new
    noise, ramp, seen, mix, ray, coords = (new("ShaderNode" + k) for k in ("TexNoise", "ValToRGB", "Background", "MixShader", "LightPath", "TexCoord"))
    noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = rng.uniform(1.5, 6), 4
    blue = np.array([.25, .45, .9]) * rng.uniform(.6, 1.1) + rng.uniform(0, .3)
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (*np.clip(blue, 0, 1), 1), (.9, .9, .92, 1)
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = rng.uniform(.2, .55), rng.uniform(.6, .8)
    seen.inputs[1].default_value = rng.uniform(.6, 1.2)
    link = tree.links.new
    link(coords.outputs["Generated"], noise.inputs["Vector"])
    link(noise.outputs[0], ramp.inputs[0])
    link(ramp.outputs[0], seen.inputs[0])
    link(ray.outputs["Is Camera Ray"], mix.inputs[0])
    link(ambient.outputs[0], mix.inputs[1])
    link(seen.outputs[0], mix.inputs[2])
    link(mix.outputs[0], next(n for n in tree.nodes if n.type == "OUTPUT_WORLD").inputs["Surface"])


def _subject(rng, world: World, request: Request) -> Mover:
    """A figure or a thing that fills most of the picture before a camera that stands still."""
    pose, kit = world.path.poses_c2w()[0], Kit(rng)
    size = rng.uniform(.5, 1.0)
    human = rng.random() < .5
    thing = props.person(rng, kit, 1.75) if human else props.trinket(rng, kit, 1.0)
    reach = .75 * size / (2 * np.tan(max(request.tall_rad, request.wide_rad) / 2)) + .3 * size     # a bust, or all of a thing
    place(thing, (0, 0, 0), scale=size)
    start = pose[:3, 3] + reach * pose[:3, 2] - [0, 0, size * (1.3 if human else .5)]
    side = pose[:3, 0] * rng.uniform(.1, .3) * size
    return Mover(thing, start, pose[:3, 0] * rng.uniform(-.25, .25) * size, 6 * rng.random(), rng.uniform(.02, .15), rng.uniform(.4, 1),
                 rng.uniform(-1.5, 1.5), side)


def _render_frame(scene) -> tuple:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        scene.render.filepath = str(Path(folder) / "frame.exr")
        bpy.ops.render.render(write_still=True)
        parts = OpenEXR.File(scene.render.filepath, separate_channels=True).parts    # one part a pass
        pixels = {name.removeprefix("ViewLayer."): channel.pixels for part in parts for name, channel in part.channels.items()}
    rgb = np.stack([pixels["Combined." + c] for c in "RGB"], -1).astype(np.float32)
    z = pixels["Depth.Z"].astype(np.float32)
    return rgb, np.where(z < 1e9, z, np.inf)
