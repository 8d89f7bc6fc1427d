// A vertical 5-tap filter over a matrix of doubles, a block of columns at a time: the program behind
// examples/stencil.kdt. Recorded with
//     gcc -O2 -o stencil examples/stencil.c
//     kdtool collect --events refs --k 64 -o stencil.kdt -- ./stencil
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 2200, COLUMNS = 2200, BLOCK = 220, TAPS = 5 };

int main(void) {
    static const double weight[TAPS] = {0.0625, 0.25, 0.375, 0.25, 0.0625};
    double *matrix = malloc(sizeof(double) * ROWS * COLUMNS);
    double mean[COLUMNS] = {0};
    if (!matrix) return 1;
    for (long i = 0; i < (long)ROWS * COLUMNS; i++) matrix[i] = (double)(i * 2654435761u % 1000);
    for (int first = 0; first < COLUMNS; first += BLOCK)
        for (int row = 0; row + TAPS <= ROWS; row++)
            for (int column = first; column < first + BLOCK; column++)
                for (int tap = 0; tap < TAPS; tap++)
                    mean[column] += weight[tap] * matrix[(long)(row + tap) * COLUMNS + column];
    double sum = 0;
    for (int column = 0; column < COLUMNS; column++) sum += mean[column];
    printf("checksum %.3f\n", sum);
    free(matrix);
    return 0;
}
