"""Fast Fourier transform: a complex matrix there and back, by rows and by columns, with NumPy."""

import argparse

import numpy as np


def main() -> None:
    """Transform a random matrix and print a checksum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1536)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    image = rng.random((arguments.rows, arguments.columns)) + 0j
    for _ in range(arguments.rounds):
        spectrum = np.fft.fft2(image)
        spectrum[arguments.rows // 4 : -arguments.rows // 4] = 0  # keep the low frequencies
        image = np.fft.ifft2(spectrum)
    print(f"checksum {np.abs(image).sum():.3f}")


if __name__ == "__main__":
    main()
