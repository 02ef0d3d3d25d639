// What the layers of a BERT encoder do between their matrix products, on tokens without padding.
//
// Compiled when a model is loaded, for the device that is there, by NVRTC, which has no headers beside it: hence the
// conversions written out. HIDDEN (components of a state) and HEAD (of one head: 32 or 64) are given on the command line.
// States are float16, [tokens, HIDDEN], texts one after the other. Where `out8` is not null, a state is written a second
// time as E4M3, multiplied by `scale8`: what an FP8 product reads.

typedef unsigned short half_bits;
typedef unsigned int word;

#define WARP 32
#define ALL_LANES 0xffffffffu

__device__ __forceinline__ float2 unpack(word pair) {
    float2 out;
    asm("{.reg .f16 a, b;\n mov.b32 {a, b}, %2;\n cvt.f32.f16 %0, a;\n cvt.f32.f16 %1, b;}" : "=f"(out.x), "=f"(out.y) : "r"(pair));
    return out;
}

// The first of the two goes into the lower half.
__device__ __forceinline__ word pack(float low, float high) {
    word out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

#if FP8
__device__ __forceinline__ half_bits pack8(float low, float high) {
    half_bits out;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(high), "f"(low));
    return out;
}
#endif

__device__ __forceinline__ float sum_of_warp(float value) {
    for (int lane = WARP / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(ALL_LANES, value, lane);
    return value;
}

// A row of a state, spread over a warp: PAIRS pairs of components in one access, STEPS accesses of each lane.
#if HIDDEN % 256 == 0
#define PAIRS 4
typedef uint4 access;
#elif HIDDEN % 128 == 0
#define PAIRS 2
typedef uint2 access;
#else
#define PAIRS 1
typedef unsigned int access;
#endif
#define STEPS (HIDDEN / (WARP * 2 * PAIRS))

union Chunk {
    access whole;
    word pairs[PAIRS];
};

struct Row {
    float2 values[STEPS][PAIRS];

    __device__ __forceinline__ void load(const word* from, int lane) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            Chunk chunk;
            chunk.whole = ((const access*)from)[step * WARP + lane];
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) values[step][pair] = unpack(chunk.pairs[pair]);
        }
    }

    __device__ __forceinline__ void add(const word* from, int lane) {
        Row other;
        other.load(from, lane);
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) {
                values[step][pair].x += other.values[step][pair].x;
                values[step][pair].y += other.values[step][pair].y;
            }
    }

    // Normalises the row, and writes it.
    __device__ __forceinline__ void normalised(
        const word* gamma, const word* beta, float epsilon, int lane, word* out, half_bits* out8, float scale8) {
        float sum = 0;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) sum += values[step][pair].x + values[step][pair].y;
        float mean = sum_of_warp(sum) / HIDDEN, squares = 0;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) {
                float2& value = values[step][pair];
                value.x -= mean, value.y -= mean;
                squares += value.x * value.x + value.y * value.y;
            }
        float factor = rsqrtf(sum_of_warp(squares) / HIDDEN + epsilon);
        Row scale, shift;
        scale.load(gamma, lane), shift.load(beta, lane);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            Chunk chunk;
            half_bits small[PAIRS];
#pragma unroll
            for (int pair = 0; pair < PAIRS; pair++) {
                float2 value = values[step][pair], g = scale.values[step][pair], b = shift.values[step][pair];
                value.x = value.x * factor * g.x + b.x, value.y = value.y * factor * g.y + b.y;
                chunk.pairs[pair] = pack(value.x, value.y);
#if FP8
                small[pair] = pack8(value.x * scale8, value.y * scale8);
#endif
            }
            ((access*)out)[step * WARP + lane] = chunk.whole;
#if FP8
            if (out8 != 0)
#pragma unroll
                for (int pair = 0; pair < PAIRS; pair++) out8[(step * WARP + lane) * PAIRS + pair] = small[pair];
#endif
        }
    }
};

#define ROW_WORDS (HIDDEN / 2)
#define ROWS_OF_BLOCK 8

// Looks words and places up, adds and normalises. ids: [texts, width], padded on the right; starts: [texts + 1].
// Grid: texts x any; block: 32 x ROWS_OF_BLOCK.
extern "C" __global__ void __launch_bounds__(WARP * ROWS_OF_BLOCK) embed(
    const long long* ids, int width, const int* starts, const word* words, long long vocabulary, const word* places,
    const word* gamma, const word* beta, float epsilon, word* out, half_bits* out8, float scale8) {
    int text = blockIdx.x, lane = threadIdx.x, start = starts[text], length = starts[text + 1] - start;
    for (int place = blockIdx.y * ROWS_OF_BLOCK + threadIdx.y; place < length; place += gridDim.y * ROWS_OF_BLOCK) {
        long long id = ids[(long long)text * width + place];
        // Nothing outside of the table is read, whatever the ids are.
        if (id < 0 || id >= vocabulary) id = 0;
        Row row;
        row.load(words + id * ROW_WORDS, lane);
        row.add(places + (long long)place * ROW_WORDS, lane);
        long long at = start + place;
        row.normalised(gamma, beta, epsilon, lane, out + at * ROW_WORDS, out8 == 0 ? out8 : out8 + at * ROW_WORDS, scale8);
    }
}

// Adds what skipped a product (unless it is null: the product has added it), and normalises. Block: 32 x ROWS_OF_BLOCK.
extern "C" __global__ void __launch_bounds__(WARP * ROWS_OF_BLOCK) add_norm(
    const word* product, const word* skipped, const word* gamma, const word* beta, float epsilon, int tokens, word* out,
    half_bits* out8, float scale8) {
    int lane = threadIdx.x;
    long long at = (long long)blockIdx.x * ROWS_OF_BLOCK + threadIdx.y;
    if (at >= tokens) return;
    Row row;
    row.load(product + at * ROW_WORDS, lane);
    if (skipped != 0) row.add(skipped + at * ROW_WORDS, lane);
    row.normalised(gamma, beta, epsilon, lane, out + at * ROW_WORDS, out8 == 0 ? out8 : out8 + at * ROW_WORDS, scale8);
}

// The vector of each text: the mean of its states, or the first of them, in float32, of unit length if that is wanted.
// Grid: texts; block: HIDDEN / 2.
extern "C" __global__ void __launch_bounds__(HIDDEN / 2) pool(
    const word* states, const int* starts, int mean, int normalise, float* out) {
    int text = blockIdx.x, column = threadIdx.x, start = starts[text], length = starts[text + 1] - start;
    int count = mean ? length : min(length, 1);
    float2 sum = {0, 0};
#pragma unroll 4
    for (int token = 0; token < count; token++) {
        float2 value = unpack(states[(long long)(start + token) * ROW_WORDS + column]);
        sum.x += value.x, sum.y += value.y;
    }
    float factor = count > 0 ? 1.0f / count : 0.0f;
    sum.x *= factor, sum.y *= factor;
    if (normalise) {
        __shared__ float squares[WARP];
        float own = sum_of_warp(sum.x * sum.x + sum.y * sum.y);
        if (threadIdx.x % WARP == 0) squares[threadIdx.x / WARP] = own;
        __syncthreads();
        float all = threadIdx.x % WARP < blockDim.x / WARP ? squares[threadIdx.x % WARP] : 0.0f;
        all = 1.0f / fmaxf(sqrtf(sum_of_warp(all)), 1e-12f);
        sum.x *= all, sum.y *= all;
    }
    ((float2*)out)[(long long)text * ROW_WORDS + column] = sum;
}

// --- Attention ------------------------------------------------------------------------------------------------------
//
// One block of four warps for each tile of 64 queries of a text and each head; keys and values come 64 at a time, the
// next ones while the last are computed. Softmax in float32, with the running maximum of FlashAttention.

#define QUERIES 64
#define KEYS 64
#define WARPS 4
// Components in 16 bytes, and how many of these a row of a head has.
#define EIGHT 8
#define ROW_CHUNKS (HEAD / EIGHT)
#define LEAST (-1e30f)

// Where 16 bytes of a row are in shared memory: rows of a column lie in different banks.
__device__ __forceinline__ int place_of(int row, int chunk) {
#if HEAD == 64
    return row * ROW_CHUNKS + (chunk ^ (row & 7));
#else
    return row * ROW_CHUNKS + (chunk ^ ((row >> 1) & 3));
#endif
}

__device__ __forceinline__ word address(const uint4* shared) { return (word)__cvta_generic_to_shared(shared); }

// Starts the copy of 64 rows of a head; what is beyond `rows` becomes 0.
__device__ __forceinline__ void fetch(uint4* shared, const uint4* global, int rows) {
#pragma unroll
    for (int i = 0; i < QUERIES * ROW_CHUNKS / (WARP * WARPS); i++) {
        int index = i * WARP * WARPS + threadIdx.x, row = index / ROW_CHUNKS, chunk = index % ROW_CHUNKS;
        int bytes = row < rows ? 16 : 0;
        // A row that is not there is not pointed at.
        const uint4* from = global + (long long)(row < rows ? row : 0) * (3 * HIDDEN / EIGHT) + chunk;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(shared + place_of(row, chunk))), "l"(from), "r"(bytes));
    }
}

__device__ __forceinline__ void four(word out[4], const uint4* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address(from)));
}

__device__ __forceinline__ void four_transposed(word out[4], const uint4* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address(from)));
}

// 16 x 16 by 16 x 8.
__device__ __forceinline__ void multiply(float sum[4], const word a[4], word b0, word b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float power_of_two(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// qkv: [tokens, 3, heads, HEAD]; tiles: [tiles, 4], of each the text's first token, its length, and the first query.
// factor: log2(e) / sqrt(HEAD). Grid: tiles x heads; block: 32 x 4 in one dimension.
extern "C" __global__ void __launch_bounds__(WARP * WARPS) attention(
    const uint4* qkv, const int4* tiles, float factor, uint4* out, uint2* out8, float scale8) {
    __shared__ uint4 queries[QUERIES * ROW_CHUNKS], keys[2][KEYS * ROW_CHUNKS], values[2][KEYS * ROW_CHUNKS];
    const int heads = HIDDEN / HEAD, row_chunks = 3 * HIDDEN / EIGHT;
    int4 tile = tiles[blockIdx.x / heads];
    int head = blockIdx.x % heads, start = tile.x, length = tile.y, first = tile.z;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const uint4* base = qkv + (long long)start * row_chunks + head * ROW_CHUNKS;
    fetch(queries, base + (long long)first * row_chunks, length - first);
    fetch(keys[0], base + HIDDEN / EIGHT, length);
    fetch(values[0], base + 2 * HIDDEN / EIGHT, length);
    asm volatile("cp.async.commit_group;");

    bool busy = first + warp * 16 < length;
    word query[HEAD / 16][4];
    float sums[HEAD / 8][4], most[2] = {LEAST, LEAST}, total[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < HEAD / 8; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;

    int blocks = (length + KEYS - 1) / KEYS;
    for (int block = 0; block < blocks; block++) {
        int left = length - block * KEYS, buffer = block & 1;
        if (block + 1 < blocks) {
            const uint4* next = base + (long long)(block + 1) * KEYS * row_chunks;
            fetch(keys[buffer ^ 1], next + HIDDEN / EIGHT, left - KEYS);
            fetch(values[buffer ^ 1], next + 2 * HIDDEN / EIGHT, left - KEYS);
            asm volatile("cp.async.commit_group;");
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        if (busy) {
            if (block == 0)
#pragma unroll
                for (int k = 0; k < HEAD / 16; k++)
                    four(query[k], queries + place_of(warp * 16 + (lane & 15), 2 * k + (lane >> 4)));
            float scores[KEYS / 8][4];
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) scores[2 * n][i] = scores[2 * n + 1][i] = 0;
                if (n * 16 < left)
#pragma unroll
                    for (int k = 0; k < HEAD / 16; k++) {
                        word key[4];
                        int row = n * 16 + (lane & 7) + ((lane >> 4) << 3);
                        four(key, keys[buffer] + place_of(row, 2 * k + ((lane >> 3) & 1)));
                        multiply(scores[2 * n], query[k], key[0], key[1]);
                        multiply(scores[2 * n + 1], query[k], key[2], key[3]);
                    }
            }
            float peak[2] = {most[0], most[1]};
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (n * 8 + (lane & 3) * 2 + (i & 1) >= left) scores[n][i] = LEAST;
                    peak[i >> 1] = fmaxf(peak[i >> 1], scores[n][i]);
                }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                peak[r] = fmaxf(peak[r], __shfl_xor_sync(ALL_LANES, peak[r], 1));
                peak[r] = fmaxf(peak[r], __shfl_xor_sync(ALL_LANES, peak[r], 2));
                float shrink = power_of_two((most[r] - peak[r]) * factor);
                most[r] = peak[r];
                total[r] *= shrink;
#pragma unroll
                for (int n = 0; n < HEAD / 8; n++) sums[n][2 * r] *= shrink, sums[n][2 * r + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                if (n * 16 >= left) continue;
                word weight[4];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float* score = scores[2 * n + half];
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        score[i] = power_of_two((score[i] - most[i >> 1]) * factor);
                        total[i >> 1] += score[i];
                    }
                    weight[2 * half] = pack(score[0], score[1]), weight[2 * half + 1] = pack(score[2], score[3]);
                }
#pragma unroll
                for (int d = 0; d < HEAD / 16; d++) {
                    word value[4];
                    four_transposed(value, values[buffer] + place_of(n * 16 + (lane & 15), 2 * d + (lane >> 4)));
                    multiply(sums[2 * d], weight, value[0], value[1]);
                    multiply(sums[2 * d + 1], weight, value[2], value[3]);
                }
            }
        }
        // The next round writes where this one has read.
        __syncthreads();
    }
    if (!busy) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(ALL_LANES, total[r], 1);
        total[r] += __shfl_xor_sync(ALL_LANES, total[r], 2);
        total[r] = 1.0f / total[r];
    }
    // Through the queries' memory, of which each warp has its own part, to write 16 bytes at a time.
    word* words = (word*)queries;
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            words[place_of(warp * 16 + r * 8 + (lane >> 2), n) * 4 + (lane & 3)] = pack(sums[n][2 * r] * total[r], sums[n][2 * r + 1] * total[r]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * ROW_CHUNKS / WARP; i++) {
        int index = i * WARP + lane, row = warp * 16 + index / ROW_CHUNKS, chunk = index % ROW_CHUNKS;
        if (first + row >= length) continue;
        long long at = (long long)(start + first + row) * (HIDDEN / EIGHT) + head * ROW_CHUNKS + chunk;
        uint4 chunk_of = queries[place_of(row, chunk)];
#if FP8
        if (out8 != 0) {
            float2 a = unpack(chunk_of.x), b = unpack(chunk_of.y), c = unpack(chunk_of.z), d = unpack(chunk_of.w);
            uint2 small;
            small.x = pack8(a.x * scale8, a.y * scale8) | (word)pack8(b.x * scale8, b.y * scale8) << 16;
            small.y = pack8(c.x * scale8, c.y * scale8) | (word)pack8(d.x * scale8, d.y * scale8) << 16;
            out8[at] = small;
            continue;
        }
#endif
        out[at] = chunk_of;
    }
}

// Holds its stream up until the host says that it has launched what follows, or for so long: then each kernel is there when the one before ends, and
// none of another stream begins for want of it. One thread, which leaves the rest of the device to others.
extern "C" __global__ void gate(const unsigned int* opened, unsigned int ticket, unsigned long long nanoseconds) {
    unsigned long long now, end;
    unsigned int seen;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(end));
    end += nanoseconds;
    do {
        asm volatile("ld.relaxed.sys.u32 %0, [%1];" : "=r"(seen) : "l"(opened) : "memory");
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    } while ((int)(seen - ticket) < 0 && now < end);
}
