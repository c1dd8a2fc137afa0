"""Flat pictures drawn without a renderer: posters, slides, logos, captions, and cameras over a flat picture."""
import cv2
import numpy as np

WORDS = ("live news today summer sale new top ten part one how to make the best travel city food music free wild "
         "ocean house open late now only season two episode market review easy world story").split()
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX)


def phrase(rng, words: int) -> str:
    """A caption of that many words."""
    return " ".join(rng.choice(WORDS, words)).capitalize()


def write(image, text: str, left: float, baseline: float, height_px: float, colour, rng=None) -> None:
    """Draw text in place; height_px is the height of a capital."""
    font = FONTS[0] if rng is None else FONTS[rng.integers(len(FONTS))]
    cv2.putText(image, text, (int(left), int(baseline)), font, height_px / 22, tuple(int(c) for c in colour),
                max(1, int(height_px / 9)), cv2.LINE_AA)


def clouds(rng, width: int, height: int) -> np.ndarray:
    """A smooth colour field with grain at all scales (height, width, 3), uint8."""
    total = np.zeros((height, width, 3), np.float32)
    for level in range(1, 7):
        grid = rng.random((2**level + 1, 2**level + 1, 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 1.6**level
    total = (total - total.min()) / (total.max() - total.min())
    tint, base = rng.random(3), rng.random(3)
    return (255 * np.clip(base * .5 + (total - .5) * 1.2 + tint * .5, 0, 1)).astype(np.uint8)


def poster(rng, width: int, height: int) -> np.ndarray:
    """A drawn picture (height, width, 3) uint8 RGB: a textured ground, shapes, lines and lettering."""
    image = np.ascontiguousarray(clouds(rng, width, height))
    size = min(width, height)
    for _ in range(rng.integers(4, 16)):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        centre = rng.integers(0, (width, height))
        reach = int(size * rng.uniform(.04, .25))
        kind = rng.integers(0, 4)
        if kind == 0:
            cv2.circle(image, tuple(map(int, centre)), reach, colour, int(rng.choice([-1, 2])), cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(image, tuple(map(int, centre - reach)), tuple(map(int, centre + reach * np.array([1, .6]))), colour, -1)
        elif kind == 2:
            cv2.fillPoly(image, [(centre + rng.normal(0, reach, (5, 2))).astype(np.int32)], colour, cv2.LINE_AA)
        else:
            cv2.line(image, tuple(map(int, centre)), tuple(map(int, rng.integers(0, (width, height)))), colour, 2, cv2.LINE_AA)
    for _ in range(rng.integers(0, 4)):
        write(image, phrase(rng, 2), rng.uniform(0, .4) * width, rng.uniform(.2, .95) * height, size * rng.uniform(.06, .14),
              rng.integers(0, 256, 3), rng)
    return image


def slides(rng, frames: int, width: int, height: int) -> np.ndarray:
    """A slideshow or an animated title (T, h, w, 3) uint8: stills, wipes and lettering that slides; no camera."""
    count = int(rng.integers(1, 4))
    pages = [poster(rng, width, height) for _ in range(count)]
    wipe, text, drift = rng.random() < .5, phrase(rng, 3), rng.uniform(-2, 2)
    out = []
    for t in range(frames):
        at = t / frames * count
        page = pages[int(at)].copy()
        if wipe and at % 1 < .25 and at >= 1:
            edge = int(width * (at % 1) * 4)
            page[:, edge:] = pages[int(at) - 1][:, edge:]
        write(page, text, width * .1 + drift * t, height * .85, height * .07, (250, 250, 250))
        out.append(page)
    return np.stack(out)


def over_picture(rng, poses_c2w, focal_px: float, width: int, height: int, distance_m: float) -> tuple:
    """A camera before one flat picture at z = distance_m of the first camera's frame (x right, y down).

    Args: poses_c2w (T, 4, 4) relative to the first camera. Returns: frames (T, h, w, 3) uint8, z-depth (T, h, w) m.
    """
    scale = 1.4 * focal_px / distance_m           # picture pixels per metre: a little finer than the view
    side = int(2.2 * 1.4 * max(width, height))    # covers the view with a good margin
    image = poster(rng, side, side)
    for _ in range(14):                                      # a big wall needs many motifs
        w, h = rng.integers(side // 8, side // 4, 2)
        x, y = rng.integers(0, side - w), rng.integers(0, side - h)
        image[y:y + h, x:x + w] = poster(rng, int(w), int(h))
    cx, cy = (width - 1) / 2, (height - 1) / 2
    camera = np.array([[focal_px, 0, cx], [0, focal_px, cy], [0, 0, 1]])
    plane = np.array([[1 / scale, 0, -side / 2 / scale], [0, 1 / scale, -side / 2 / scale], [0, 0, distance_m]])
    rays = np.linalg.inv(camera) @ np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))]).reshape(3, -1)
    frames, depth = [], []
    for pose in poses_c2w:
        turn, shift = pose[:3, :3].T, pose[:3, 3]
        homography = camera @ turn @ (plane - np.outer(shift, [0, 0, 1]))
        frames.append(cv2.warpPerspective(image, homography, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))
        depth.append(((distance_m - shift[2]) / (pose[2, :3] @ rays)).reshape(height, width))
    return np.stack(frames), np.stack(depth)
