"""Pinhole cameras, rigid motions and exact warps, in the conventions of notebook 00.

OpenCV axes (x right, y down, z forward); poses are 4x4 and named ``tgt_from_src``; depth is z, not ray
length; pixel centres lie at integer coordinates and every sample uses ``align_corners=True``, so warping
with the identity pose returns the image. Geometry stays in float32. Rotations, rigid transforms and
projections come from kornia.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from kornia.geometry import (
    axis_angle_to_rotation_matrix,
    inverse_transformation,
    rotation_matrix_to_axis_angle,
    transform_points,
)
from torch import Tensor

MIN_DEPTH = 1e-3  # points nearer than this, or behind the camera, are clamped here before the division
ROUNDING_PX = 1e-3  # float32 moves a coordinate by up to 1e-5 px: the outermost pixels are still on the image


def pixel_grid(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "H W 2"]:
    """Coordinates (x, y) in pixels of every pixel centre; the top-left one is (0, 0)."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def image_centre(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "2"]:
    """The principal point that the models assume, in pixels: the centre of the image."""
    return torch.tensor([(width - 1) / 2, (height - 1) / 2], device=device)


def intrinsics_matrix(focal_px: Float[Tensor, "*B"], height: int, width: int) -> Float[Tensor, "*B 3 3"]:
    """K of a camera with square pixels, no skew and its principal point at the image centre.

    Args:
        focal_px: focal length in pixels of an image of the given height and width.
    """
    matrix = torch.zeros(*focal_px.shape, 3, 3, dtype=focal_px.dtype, device=focal_px.device)
    matrix[..., 0, 0] = focal_px
    matrix[..., 1, 1] = focal_px
    matrix[..., :2, 2] = image_centre(height, width, focal_px.device).to(focal_px.dtype)
    matrix[..., 2, 2] = 1
    return matrix


def resize_intrinsics(
    intrinsics: Float[Tensor, "*B 3 3"], scale_x: float, scale_y: float, crop_x_px: float = 0.0, crop_y_px: float = 0.0
) -> Float[Tensor, "*B 3 3"]:
    """K after resizing the image by (scale_x, scale_y) and then cutting crop_*_px off its left and top.

    Pixel areas scale, not centres: ``x' = (x + 0.5) * scale - 0.5 - crop``.
    """
    out = intrinsics.clone()
    for row, (scale, crop_px) in enumerate([(scale_x, crop_x_px), (scale_y, crop_y_px)]):
        out[..., row, :] = intrinsics[..., row, :] * scale
        out[..., row, 2] = (intrinsics[..., row, 2] + 0.5) * scale - 0.5 - crop_px
    return out


def so3_exp(rotation_rad: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """Rotation matrices of axis-angle vectors in radians (Rodrigues' formula, by kornia)."""
    return axis_angle_to_rotation_matrix(rotation_rad)


def so3_log(rotation: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3"]:
    """Axis-angle vectors in radians, at most pi long, of rotation matrices (by kornia)."""
    return rotation_matrix_to_axis_angle(rotation)


def rigid(rotation: Float[Tensor, "*B 3 3"], translation: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 4 4"]:
    """The 4x4 pose made of a rotation and a translation."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert_pose(tgt_from_src: Float[Tensor, "*B 4 4"]) -> Float[Tensor, "*B 4 4"]:
    """src_from_tgt, by transposing the rotation (no linear solve)."""
    shape = tgt_from_src.shape
    return inverse_transformation(tgt_from_src.reshape(-1, 4, 4)).reshape(shape)


def chain_poses(next_from_prev: Float[Tensor, "B N 4 4"]) -> Float[Tensor, "B M 4 4"]:
    """world_from_cam of N + 1 frames from the N poses between neighbours; the first frame is the world."""
    world_from_cam = [torch.eye(4, device=next_from_prev.device).expand(len(next_from_prev), 4, 4)]
    prev_from_next = invert_pose(next_from_prev)
    for step in range(next_from_prev.shape[1]):
        world_from_cam.append(world_from_cam[-1] @ prev_from_next[:, step])
    return torch.stack(world_from_cam, dim=1)


def rays(height: int, width: int, intrinsics: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B H W 3"]:
    """Viewing rays with z = 1 through every pixel centre, in the camera's frame."""
    grid = pixel_grid(height, width, intrinsics.device)
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=-1)[:, None, None]
    xy = (grid - intrinsics[:, None, None, :2, 2]) / focal
    return torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)


def backproject(depth: Float[Tensor, "B H W"], intrinsics: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B H W 3"]:
    """Points in the camera's frame, in the unit of the depth map (z-depth)."""
    return rays(*depth.shape[-2:], intrinsics) * depth[..., None]


def project(
    points: Float[Tensor, "B *P 3"], intrinsics: Float[Tensor, "B 3 3"]
) -> tuple[Float[Tensor, "B *P 2"], Float[Tensor, "B *P"]]:
    """Pixel coordinates and depth of points given in the camera's frame."""
    flat = points.reshape(len(points), -1, 3)
    depth = flat[..., 2]
    xy = flat[..., :2] / depth[..., None].clamp(min=MIN_DEPTH)
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=-1)[:, None]
    pixels = xy * focal + intrinsics[:, None, :2, 2]
    return pixels.reshape(*points.shape[:-1], 2), depth.reshape(points.shape[:-1])


def sample(
    image: Float[Tensor, "B C H W"], pixels: Float[Tensor, "B h w 2"]
) -> Float[Tensor, "B C h w"]:
    """Bilinear values of an image at pixel coordinates (x, y); the identity grid returns the image."""
    height, width = image.shape[-2:]
    size = pixels.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    return F.grid_sample(image, pixels / size * 2 - 1, mode="bilinear", padding_mode="border", align_corners=True)


def inside(pixels: Float[Tensor, "*B 2"], height: int, width: int) -> Tensor:
    """Whether pixel coordinates fall on the image (bool, shape *B)."""
    x, y = pixels.unbind(-1)
    low, right, bottom = -ROUNDING_PX, width - 1 + ROUNDING_PX, height - 1 + ROUNDING_PX
    return (x >= low) & (y >= low) & (x <= right) & (y <= bottom)


def reproject(
    depth_tgt: Float[Tensor, "B H W"], intrinsics: Float[Tensor, "B 3 3"], src_from_tgt: Float[Tensor, "B 4 4"]
) -> tuple[Float[Tensor, "B H W 2"], Float[Tensor, "B H W"]]:
    """Where each target pixel lands in the source image (pixels), and its depth there."""
    points = backproject(depth_tgt, intrinsics)
    moved = transform_points(src_from_tgt, points.reshape(len(points), -1, 3)).reshape(points.shape)
    return project(moved, intrinsics)


def warp(
    image_src: Float[Tensor, "B C H W"],
    depth_tgt: Float[Tensor, "B H W"],
    intrinsics: Float[Tensor, "B 3 3"],
    src_from_tgt: Float[Tensor, "B 4 4"],
) -> tuple[Float[Tensor, "B C H W"], Tensor]:
    """The source image seen from the target camera (inverse warp; Zhou et al. 2017, eq. 2).

    Returns:
        The warped image, and a bool mask (B, H, W) of the pixels that fall on the source image in front
        of its camera.
    """
    pixels, depth = reproject(depth_tgt, intrinsics, src_from_tgt)
    visible = inside(pixels, *image_src.shape[-2:]) & (depth > MIN_DEPTH)
    return sample(image_src, pixels), visible


def rotation_angle_deg(rotation: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B"]:
    """Angle of rotation matrices in degrees; atan2 keeps it accurate near zero, where arccos is not."""
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    skew = rotation - rotation.transpose(-1, -2)
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1).norm(dim=-1) / 2
    return torch.rad2deg(torch.atan2(sine, (trace - 1) / 2))
