// Jacobi's five-point stencil over a square grid of doubles, two grids in turn: ./stencil SIDE SWEEPS
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    long side = atol(argv[1]), sweeps = atol(argv[2]);
    double *from = malloc(side * side * sizeof *from), *to = malloc(side * side * sizeof *to);
    if (!from || !to) return 1;
    for (long i = 0; i < side * side; i++) from[i] = to[i] = (double)(i * 2654435761L % 1000);
    for (long sweep = 0; sweep < sweeps; sweep++) {
        for (long row = 1; row < side - 1; row++)
            for (long at = row * side + 1; at < row * side + side - 1; at++)
                to[at] = 0.2 * (from[at] + from[at - 1] + from[at + 1] + from[at - side] + from[at + side]);
        double *swapped = from;
        from = to, to = swapped;
    }
    double sum = 0;
    for (long i = 0; i < side * side; i++) sum += from[i];
    printf("checksum %.3f\n", sum);
    return 0;
}
