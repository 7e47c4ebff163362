// Instructions in which the lanes of a warp exchange values: __syncwarp, shuffles, votes, ldmatrix, mma.
#include "launch.h"
#include "number.h"
#include "profile.h"
#include <array>
#include <cstring>

namespace sim {

void Launch::exchange(const Instruction &i, u32 lanes) {
    if (profiler) { profile_access(i, lanes); }
    switch (i.op) {
    case Op::BAR_WARP:
        warp->seen[warp->index] = ++warp->clock;
        break;
    case Op::SHFL:
        shuffle(i, lanes);
        break;
    case Op::VOTE:
        vote(i, lanes);
        break;
    case Op::LDMATRIX:
        load_matrices(i);
        break;
    default:
        multiply_matrices(i);
        break;
    }
}

// shfl.sync.{bfly,idx}.b32 to[|in range], from, lane or bits, clamp, members
void Launch::shuffle(const Instruction &i, u32 lanes) {
    const Source from(*this, i.operands[1]), partner(*this, i.operands[2]), clamp(*this, i.operands[3]);
    u64 values[WARP];
    u32 in_range = 0;
    for_lanes(lanes, [&](int lane) {
        const int b = (int)(partner[lane] & 31), c = (int)clamp[lane], segment = c >> 8 & 31;
        const int last = (lane & segment) | (c & ~segment & 31);
        int source = i.butterfly ? lane ^ b : (lane & segment) | (b & ~segment & 31);
        if (source > last) {
            source = lane;
        } else {
            in_range |= 1u << lane;
        }
        values[lane] = (u32)from[source];
        if (!(lanes >> source & 1)) {
            find("shuffle", "shfl.sync reads lane " + std::to_string(source) + ", which does not take part", lane);
            values[lane] = 0xffffffff;
        }
    });
    u64 *to = destination(i.operands[0]);
    for_lanes(lanes, [&](int lane) { to[lane] = values[lane]; });
    if (i.operands[0].second < 0) { return; }
    u64 *predicate = &warp->registers[(size_t)i.operands[0].second * WARP];
    for_lanes(lanes, [&](int lane) { predicate[lane] = in_range >> lane & 1; });
}

void Launch::vote(const Instruction &i, u32 lanes) {
    const Source predicate(*this, i.operands[1]);
    u32 ballot = 0;
    for_lanes(lanes, [&](int lane) { ballot |= (u32)(predicate[lane] & 1) << lane; });
    u64 *to = destination(i.operands[0]);
    for_lanes(lanes, [&](int lane) { to[lane] = ballot; });
}

// ---- Matrices -------------------------------------------------------------------------------------------------------

// ldmatrix.x4: lane 8 m + r has the address of row r (8 elements) of matrix m. A lane gets two neighbouring elements of
// each matrix: of row lane / 4, or with .trans of column lane / 4.
void Launch::load_matrices(const Instruction &i) {
    u16 matrices[4][8][8];
    for (int lane = 0; lane < WARP; lane++) {
        memcpy(matrices[lane / 8][lane % 8], memory(Space::SHARED, address(i.operands[1], lane), 16, false, lane), 16);
    }
    for (int m = 0; m < 4; m++) {
        const auto &matrix = matrices[m];
        u64 *to = destination(i.operands[0].of.at((size_t)m));
        for (int lane = 0; lane < WARP; lane++) {
            const int r = lane / 4, c = lane % 4 * 2;
            to[lane] =
                i.transposed ? matrix[c][r] | (u32)matrix[c + 1][r] << 16 : matrix[r][c] | (u32)matrix[r][c + 1] << 16;
        }
    }
}

enum { M = 16, N = 8, K = 16 };

// Where element n of a lane's fragment is in the row-major matrix (PTX ISA, "Matrix Fragments for mma.m16n8k16 with
// floating point type").
static int place_in_a(int lane, int n) { return (lane / 4 + 8 * (n / 2 % 2)) * K + lane % 4 * 2 + n % 2 + 8 * (n / 4); }
static int place_in_b(int lane, int n) { return (lane % 4 * 2 + n % 2 + 8 * (n / 2)) * N + lane / 4; }
static int place_in_c(int lane, int n) { return (lane / 4 + 8 * (n / 2)) * N + lane % 4 * 2 + n % 2; }

template <int ELEMENTS> using Places = std::array<std::array<int, ELEMENTS>, WARP>;
template <int ELEMENTS> static Places<ELEMENTS> all_places(int (*place)(int lane, int n)) {
    Places<ELEMENTS> places;
    for (int lane = 0; lane < WARP; lane++) {
        for (int n = 0; n < ELEMENTS; n++) { places[lane][n] = place(lane, n); }
    }
    return places;
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {d}, {a}, {b}, {c}. The products are exact and the sum over K is
// in double: more exact than hardware.
void Launch::multiply_matrices(const Instruction &i) {
    static const Places<8> in_a = all_places<8>(place_in_a);
    static const Places<4> in_b = all_places<4>(place_in_b), in_c = all_places<4>(place_in_c);
    double a[M * K], b[K * N], c[M * N] = {};
    auto gather = [&](const Operand &fragment, const auto &places, double *matrix) { // two bf16 in a register
        for (size_t r = 0; r < fragment.of.size(); r++) {
            const Source values(*this, fragment.of[r]);
            for (int lane = 0; lane < WARP; lane++) {
                matrix[places[lane][2 * r]] = float_of_bf16(values[lane]);
                matrix[places[lane][2 * r + 1]] = float_of_bf16(values[lane] >> 16);
            }
        }
    };
    gather(i.operands[1], in_a, a);
    gather(i.operands[2], in_b, b);
    for (int m = 0; m < M; m++) {
        for (int k = 0; k < K; k++) {
            for (int n = 0; n < N; n++) { c[m * N + n] += a[m * K + k] * b[k * N + n]; }
        }
    }
    u64 results[4][WARP];
    for (int r = 0; r < 4; r++) {
        const Source addend(*this, i.operands[3].of[(size_t)r]);
        for (int lane = 0; lane < WARP; lane++) {
            results[r][lane] = bits_of((float)(c[in_c[lane][r]] + (double)float_of(addend[lane])));
        }
    }
    for (int r = 0; r < 4; r++) { memcpy(destination(i.operands[0].of[(size_t)r]), results[r], sizeof results[r]); }
}

} // namespace sim
