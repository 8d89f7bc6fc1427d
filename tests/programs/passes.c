// Runs TIMES counted filters (collect/pageprobe.c) over a small matrix: passes TIMES. Prints nothing.
#include "pageprobe.c"

#include <stdlib.h>

static double matrix[16][100], to[12][100];

int main(int argc, char **argv) {
    spent took;
    probe_passes((const char *)matrix, sizeof matrix[0], 16, 5, (char *)to, sizeof to[0],
                 argc > 1 ? atol(argv[1]) : 1, &took);
    return 0;
}
