"""Meshes from numpy: a builder that collects boxes, cylinders, balls and height fields into one Blender object.

Vertices are in metres in the object's own frame and objects are never scaled unevenly, so that a texture in
object coordinates has its size in metres; every face also gets UVs in metres by projection along its main axis.
"""
import bpy
import numpy as np


class Mesh:
    """Collects parts, each with a material number, and becomes an object with `build`."""

    def __init__(self):
        self.verts, self.faces, self.numbers, self.count = [], [], [], 0

    def add(self, verts, faces, mat: int = 0) -> "Mesh":
        """Add vertices (n, 3) and faces (lists of vertex numbers within this part)."""
        self.verts.append(np.asarray(verts, np.float64))
        self.faces += [[v + self.count for v in face] for face in faces]
        self.numbers += [mat] * len(faces)
        self.count += len(verts)
        return self

    def box(self, centre, size, mat: int = 0, yaw: float = 0.0) -> "Mesh":
        """A box of size (3,) metres about its centre, turned about z."""
        corner = np.array([[x, y, z] for x in (-.5, .5) for y in (-.5, .5) for z in (-.5, .5)]) * size
        faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
        return self.add(turn(corner, yaw) + centre, faces, mat)

    def tube(self, start, end, radius: float, mat: int = 0, top: float | None = None, sides: int = 10) -> "Mesh":
        """A closed cylinder, or a cone, from `start` to `end`; `top` is the radius at the end."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        axis = (end - start) / np.linalg.norm(end - start)
        side = np.cross(axis, [1, 0, 0] if abs(axis[0]) < 0.8 else [0, 1, 0])
        side /= np.linalg.norm(side)
        angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None]
        ring = np.cos(angle) * side + np.sin(angle) * np.cross(axis, side)
        verts = np.concatenate([start + radius * ring, end + max(radius if top is None else top, 1e-4) * ring])
        faces = [[k, (k + 1) % sides, sides + (k + 1) % sides, sides + k] for k in range(sides)]
        return self.add(verts, faces + [list(range(sides))[::-1], list(range(sides, 2 * sides))], mat)

    def ball(self, centre, radii, mat: int = 0, rng=None, bump: float = 0.0, rings: int = 7, sides: int = 11) -> "Mesh":
        """An ellipsoid; with an rng its surface is dented by smooth waves of relative height `bump`."""
        theta = np.linspace(0, np.pi, rings + 1)
        phi = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        unit = np.stack([np.outer(np.sin(theta), np.cos(phi)), np.outer(np.sin(theta), np.sin(phi)),
                         np.outer(np.cos(theta), np.ones(sides))], -1).reshape(-1, 3)
        scale = np.ones(len(unit))
        for _ in range(3 if rng is not None and bump else 0):
            scale += bump * np.sin(unit @ rng.normal(0, 3, 3) + 6.3 * rng.random())
        faces = [[i * sides + j, (i + 1) * sides + j, (i + 1) * sides + (j + 1) % sides, i * sides + (j + 1) % sides]
                 for i in range(rings) for j in range(sides)]
        return self.add(unit * scale[:, None] * radii + centre, faces, mat)

    def cards(self, centres, size: float, rng, mat: int = 0) -> "Mesh":
        """Small squares in random directions at centres (n, 3): leaves, paper."""
        for centre in np.asarray(centres):
            a, b = np.linalg.qr(rng.normal(size=(3, 2)))[0].T * size * rng.uniform(0.5, 1)
            self.add(centre + np.array([-a - b, a - b, a + b, b - a]) / 2, [[0, 1, 2, 3]], mat)
        return self

    def field(self, xs, ys, heights, mat: int = 0) -> "Mesh":
        """A height field: heights (len(ys), len(xs)) over a rectangular grid."""
        gx, gy = np.meshgrid(xs, ys)
        w, h = len(xs), len(ys)
        at = np.arange(w * h).reshape(h, w)
        faces = np.stack([at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]], -1).reshape(-1, 4)
        return self.add(np.stack([gx, gy, heights], -1).reshape(-1, 3), faces.tolist(), mat)

    def build(self, materials, smooth: bool = False, shadow: bool = True):
        """The Blender object, linked into the scene. shadow=False: light passes (shells of rooms)."""
        mesh = bpy.data.meshes.new("mesh")
        mesh.from_pydata(np.concatenate(self.verts).tolist(), [], self.faces)
        for material in materials:
            mesh.materials.append(material)
        mesh.polygons.foreach_set("material_index", np.array(self.numbers, np.int32))
        mesh.polygons.foreach_set("use_smooth", np.full(len(self.faces), smooth))
        _metric_uvs(mesh)
        thing = bpy.data.objects.new("thing", mesh)
        thing.visible_shadow = shadow
        bpy.context.scene.collection.objects.link(thing)
        return thing


def turn(points, yaw: float) -> np.ndarray:
    """Points (n, 3) turned about the z axis by yaw radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.asarray(points) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def place(thing, xyz, yaw: float = 0.0, scale: float = 1.0, copy: bool = False):
    """Put an object, or a copy that shares its mesh, at xyz."""
    if copy:
        thing = thing.copy()
        bpy.context.scene.collection.objects.link(thing)
    thing.location, thing.rotation_euler, thing.scale = xyz, (0, 0, yaw), (scale,) * 3
    return thing


def _metric_uvs(mesh) -> None:
    """UVs in metres: each face projected along the axis nearest to its normal, so that bricks lie level."""
    loops = len(mesh.loops)
    points, normals = np.zeros(3 * len(mesh.vertices), np.float32), np.zeros(3 * len(mesh.polygons), np.float32)
    corner, sizes = np.zeros(loops, np.int32), np.zeros(len(mesh.polygons), np.int32)
    mesh.vertices.foreach_get("co", points)
    mesh.polygons.foreach_get("normal", normals)
    mesh.loops.foreach_get("vertex_index", corner)
    mesh.polygons.foreach_get("loop_total", sizes)
    axis = np.repeat(np.abs(normals.reshape(-1, 3)).argmax(1), sizes)
    at = points.reshape(-1, 3)[corner]
    uv = np.where((axis == 0)[:, None], at[:, [1, 2]], np.where((axis == 1)[:, None], at[:, [0, 2]], at[:, [0, 1]]))
    mesh.uv_layers.new(name="metres").data.foreach_set("uv", uv.astype(np.float32).ravel())
