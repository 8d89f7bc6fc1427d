// Breadth-first search over a small-world graph in compressed sparse rows (CSR): a ring where each node knows its
// nearest neighbours, and one edge in REWIRED leads anywhere (Watts and Strogatz, Nature 1998).
//     ./bfs NODES DEGREE REWIRED SOURCES SEED
#include <stdio.h>
#include <stdlib.h>

static unsigned long state;

static unsigned long below(unsigned long n) {  // xorshift64*, Vigna 2016
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return ((state * 2685821657736338717UL) >> 32) % n;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    unsigned nodes = (unsigned)atol(argv[1]), degree = (unsigned)atol(argv[2]), rewired = (unsigned)atol(argv[3]);
    unsigned sources = (unsigned)atol(argv[4]);
    state = 0x9E3779B97F4A7C15UL + strtoul(argv[5], 0, 10);
    unsigned *row = malloc((nodes + 1UL) * sizeof *row), *edge = malloc((unsigned long)nodes * degree * sizeof *edge);
    unsigned *queue = malloc(nodes * sizeof *queue), *level = malloc(nodes * sizeof *level);
    if (!row || !edge || !queue || !level) return 1;
    for (unsigned node = 0; node < nodes; node++) {
        row[node] = node * degree;
        for (unsigned i = 0; i < degree; i++) {
            long distance = (long)(i / 2 + 1) * (i % 2 ? -1 : 1);
            edge[row[node] + i] = below(rewired) ? (unsigned)((node + distance + nodes) % nodes) : (unsigned)below(nodes);
        }
    }
    row[nodes] = nodes * degree;
    unsigned long sum = 0;
    for (unsigned search = 0; search < sources; search++) {
        for (unsigned node = 0; node < nodes; node++) level[node] = ~0U;
        unsigned head = 0, tail = 1;
        queue[0] = (unsigned)below(nodes);
        level[queue[0]] = 0;
        while (head < tail) {
            unsigned node = queue[head++];
            sum += level[node];
            for (unsigned i = row[node]; i < row[node + 1]; i++)
                if (level[edge[i]] == ~0U) {
                    level[edge[i]] = level[node] + 1;
                    queue[tail++] = edge[i];
                }
        }
    }
    printf("checksum %lu\n", sum);
    return 0;
}
