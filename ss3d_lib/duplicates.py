"""Near-duplicate shots across videos: perceptual hashes, and an index that does not compare all with all.

Introduced in notebook 01.
"""

from __future__ import annotations

import cv2
import numpy as np


def frame_hashes(frames: np.ndarray, every: int) -> np.ndarray:
    """Perceptual hashes (n,) uint64 of every `every`-th frame: signs of the 8x8 lowest DCT terms of a 32x32 luma.

    Frames without structure (black, plain) give none: they would be like each other.
    """
    hashes = []
    for frame in frames[::every]:
        luma = cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32).mean(-1)
        if luma.std() < 8:
            continue
        low = cv2.dct(luma)[:8, :8].ravel()[1:]
        bits = np.packbits(np.r_[False, low > np.median(low)])
        hashes.append(bits.view(np.uint64)[0])
    return np.array(hashes, np.uint64)


def same_shot(hashes_a: np.ndarray, hashes_b: np.ndarray, max_bits: int = 8, share: float = 0.6) -> bool:
    """Most frames of the shorter one are, to `max_bits` of 63, frames of the other."""
    if min(len(hashes_a), len(hashes_b)) == 0:
        return False
    if len(hashes_a) > len(hashes_b):
        hashes_a, hashes_b = hashes_b, hashes_a
    distance = np.bitwise_count(hashes_a[:, None] ^ hashes_b[None, :])
    return bool((distance.min(1) <= max_bits).mean() >= share)


class DuplicateIndex:
    """Finds an earlier shot of another video that shows the same frames, without comparing all with all.

    Hashes that differ in at most 7 of 64 bits agree in at least one of 8 bytes (multi-index hashing, Norouzi et al.
    2012), so only shots that share several bytes are compared bit by bit.
    """

    def __init__(self, max_bits: int) -> None:
        self.max_bits, self.shots, self.buckets = max_bits, [], {}

    def find_or_add(self, shot: str, video_name: str, hashes: np.ndarray) -> str:
        """The id of the earlier twin; "" (and the shot is remembered) when there is none."""
        keys = {(i, int(b)) for h in hashes for i, b in enumerate(np.array([h]).view(np.uint8).tolist())}
        votes: dict[int, int] = {}
        for key in keys:
            for number in self.buckets.get(key, ()):
                votes[number] = votes.get(number, 0) + 1
        for number in sorted(votes, key=lambda n: (-votes[n], n))[:50]:
            other, other_video, other_hashes = self.shots[number]
            if other_video != video_name and same_shot(hashes, other_hashes, self.max_bits):
                return other
        for key in keys:
            self.buckets.setdefault(key, []).append(len(self.shots))
        self.shots.append((shot, video_name, hashes))
        return ""
