"""Video resizing: 1080p frames held in memory, scaled to a quarter by nearest neighbour with OpenCV.

Every fourth row of a frame is read: rows 5.625 pages apart, two or three pages of each.
"""

import argparse

import cv2
import numpy as np

HEIGHT, WIDTH, CHANNELS = 1080, 1920, 3


def generate(n_frames: int, seed: int) -> np.ndarray:
    """Return frames of shape (n_frames, 1080, 1920, 3), uint8: a moving texture."""
    texture = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, CHANNELS), dtype=np.uint8)
    frames = np.empty((n_frames, HEIGHT, WIDTH, CHANNELS), np.uint8)
    for i, frame in enumerate(frames):
        np.add(texture, np.uint8(7 * i % 256), out=frame)
    return frames


def main() -> None:
    """Resize every frame and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # One thread: the order of references is then the program's own, not the scheduler's.
    cv2.setNumThreads(1)
    frames = generate(arguments.frames, arguments.seed)
    small = np.empty((HEIGHT // 4, WIDTH // 4, CHANNELS), np.uint8)
    total = 0
    for frame in frames:
        cv2.resize(frame, (WIDTH // 4, HEIGHT // 4), dst=small, interpolation=cv2.INTER_NEAREST)
        total += int(small.sum(dtype=np.uint64))
    print(f"checksum {total}")


if __name__ == "__main__":
    main()
