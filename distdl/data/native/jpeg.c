/* A part of a JPEG, resized into a place of its own: the whole way from a shard's bytes to a row of a batch in one call.

     crop      only what the box needs is decoded: columns by jpeg_crop_scanline, rows by jpeg_skip_scanlines, and what
               lies below the box is not even read
     scale     by 1, 1/2, 1/4 or 1/8 in the DCT, the smallest that leaves at least as many pixels as are wanted
     resize    with Pillow's antialiased bilinear filter: a triangle as wide as the reduction

   Rows are weighted first, since that runs over whole lines, in 16-bit integers; then columns, in 32-bit ones. All
   arithmetic is of integers, so that the same bytes give the same pixels on every processor. */

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#ifndef JCS_EXTENSIONS
#error "libjpeg-turbo is needed"
#endif
#ifdef __x86_64__
#include <immintrin.h>
#endif

/* Compiled twice, the second time for wider registers; the processor's own is taken when the library is loaded. AVX2 is
   without multiply-add, so that both round alike. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define ALSO_BY_AVX2 __attribute__((target_clones("avx2", "default")))
#else
#define ALSO_BY_AVX2
#endif

enum { VERSION = 1 }; /* of the arguments below, as in __init__.py */
enum { DONE = 0, DAMAGED = 1, ANOTHER_DECODER = 2, NO_MEMORY = 3 };
enum { LANES = 4, ROW_BITS = 8, COLUMN_BITS = 14, MESSAGE_BYTES = JMSG_LENGTH_MAX };

/* --- how pixels of the source make one of the result --- */

typedef struct {
    int first, count;
} Span;

typedef struct {
    Span *spans;      /* (n_out) */
    int16_t *weights; /* (n_out, stride), those of a span beyond its count are 0 */
    int stride;       /* the largest count, rounded up to an even number */
    int n_out;
} Filter;

/* For n_out pixels over [start, start + extent) of a line of which [0, end) is there. Weights add up to 1 << bits. */
ALSO_BY_AVX2 static int make_filter(Filter *filter, double start, double extent, int end, int n_out, int bits) {
    double scale = extent / n_out, reach = scale > 1 ? scale : 1;
    int from = (int)floor(start), to = (int)ceil(start + extent);
    from = from < 0 ? 0 : from > end - 1 ? end - 1 : from;
    to = to > end ? end : to <= from ? from + 1 : to;
    filter->n_out = n_out;
    filter->spans = malloc(n_out * sizeof(Span));
    if (!filter->spans) return 0;
    int most = 0;
    for (int i = 0; i < n_out; i++) {
        double centre = start + (i + 0.5) * scale;
        int first = (int)floor(centre - reach + 0.5), last = (int)floor(centre + reach + 0.5);
        first = first < from ? from : first > to - 1 ? to - 1 : first;
        last = last > to ? to : last <= first ? first + 1 : last;
        filter->spans[i] = (Span){first, last - first};
        most = last - first > most ? last - first : most;
    }
    filter->stride = (most + 1) & ~1;
    filter->weights = calloc((size_t)n_out * filter->stride, sizeof(int16_t));
    double *exact = malloc(filter->stride * sizeof(double));
    if (!filter->weights || !exact) {
        free(exact);
        return 0;
    }
    for (int i = 0; i < n_out; i++) {
        double centre = start + (i + 0.5) * scale, sum = 0;
        Span span = filter->spans[i];
        for (int k = 0; k < span.count; k++) {
            double weight = 1 - fabs((span.first + k + 0.5 - centre) / reach);
            exact[k] = weight > 0 ? weight : 0;
            sum += exact[k];
        }
        if (sum <= 0) exact[0] = sum = 1;
        int16_t *weights = filter->weights + (size_t)i * filter->stride;
        double so_far = 0.5, share = (1 << bits) / sum; /* a half: to be cut off where it would be rounded */
        int given = 0;
        for (int k = 0; k < span.count; k++) {
            so_far += exact[k] * share;
            int until = (int)so_far;
            weights[k] = (int16_t)(until - given);
            given = until;
        }
        weights[span.count - 1] += (int16_t)((1 << bits) - given);
    }
    free(exact);
    return 1;
}

static void free_filter(Filter *filter) {
    free(filter->spans);
    free(filter->weights);
}

/* `n_rows` is a constant where it is called: sums stay in registers. */
__attribute__((always_inline)) static inline void
weigh_so_many(uint16_t *restrict sums, uint8_t *const *rows, int n_rows, const int16_t *weights, int width) {
    for (int x = 0; x < width; x++) {
        uint16_t sum = 0;
        for (int k = 0; k < n_rows; k++) sum = (uint16_t)(sum + (uint16_t)weights[k] * rows[k][x]);
        sums[x] = sum >> 1;
    }
}

/* sums[x] = rows weighted, in 1/128: at most 255 * 128, which fits 16 bits with a sign */
ALSO_BY_AVX2 static void
weigh_rows(uint16_t *restrict sums, uint8_t *const *rows, int n_rows, const int16_t *weights, int width) {
    if (n_rows == 1) {
        for (int x = 0; x < width; x++) sums[x] = (uint16_t)(rows[0][x] << (ROW_BITS - 1));
    } else if (n_rows == 2) {
        weigh_so_many(sums, rows, 2, weights, width);
    } else if (n_rows == 3) {
        weigh_so_many(sums, rows, 3, weights, width);
    } else if (n_rows == 4) {
        weigh_so_many(sums, rows, 4, weights, width);
    } else {
        for (int x = 0; x < width; x++) sums[x] = (uint16_t)((uint16_t)weights[0] * rows[0][x]);
        for (int k = 1; k < n_rows; k++) {
            const uint8_t *row = rows[k];
            uint16_t weight = (uint16_t)weights[k];
            for (int x = 0; x < width; x++) sums[x] = (uint16_t)(sums[x] + weight * row[x]);
        }
        for (int x = 0; x < width; x++) sums[x] >>= 1;
    }
}

/* Two rows of the result out of two lines of sums (the same one twice, for a last row that is alone), `channels` (1 or 3)
   bytes a pixel. The lines have as many more pixels than the spans name as an even number of weights may ask for. */
typedef struct {
    uint8_t *out[2];
    const uint16_t *sums[2];
} TwoRows;

/* Four bytes are stored where there is room: the fourth is written over by the pixel that follows. */
static inline void store(uint8_t *out, uint32_t pixel, int channels, int is_last) {
    if (channels == 1)
        *out = (uint8_t)pixel;
    else if (is_last)
        memcpy(out, &pixel, 3);
    else
        memcpy(out, &pixel, 4);
}

static inline uint32_t one_pixel(const uint16_t *pixels, const int16_t *weights, int count) {
    uint32_t packed = 0;
    for (int lane = 0; lane < LANES; lane++) {
        int32_t total = 1 << (ROW_BITS - 1 + COLUMN_BITS - 1);
        for (int k = 0; k < count; k++) total += weights[k] * (int32_t)pixels[k * LANES + lane];
        packed |= (uint32_t)(total >> (ROW_BITS - 1 + COLUMN_BITS)) << (8 * lane);
    }
    return packed;
}

static void weigh_columns_anywhere(TwoRows rows, const Filter *filter, int channels, int flip) {
    int last = filter->n_out - 1;
    for (int i = 0; i <= last; i++) {
        int from = flip ? last - i : i;
        const int16_t *weights = filter->weights + (size_t)from * filter->stride;
        Span span = filter->spans[from];
        for (int row = 0; row < 2; row++)
            store(rows.out[row] + i * channels, one_pixel(rows.sums[row] + span.first * LANES, weights, span.count),
                  channels, i == last);
    }
}

#ifdef __x86_64__
/* The same by AVX2, a row in each half of the registers: two pixels' lanes are put side by side (r r g g b b x x) for an
   instruction that multiplies pairs and adds them up. `n_pairs` is a constant where it is called. */
__attribute__((target("avx2"), always_inline)) static inline void
weigh_pairs(TwoRows rows, const Filter *filter, int n_pairs, int channels, int flip) {
    const __m256i by_lane = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    int last = filter->n_out - 1;
    for (int i = 0; i <= last; i++) {
        int from = flip ? last - i : i;
        const int16_t *weights = filter->weights + (size_t)from * filter->stride;
        size_t first = (size_t)filter->spans[from].first * LANES;
        __m256i total = _mm256_set1_epi32(1 << (ROW_BITS - 1 + COLUMN_BITS - 1));
        for (int k = 0; k < n_pairs; k++) {
            int32_t pair;
            memcpy(&pair, weights + 2 * k, sizeof pair);
            const __m128i *above = (const __m128i *)(rows.sums[0] + first + 2 * k * LANES);
            const __m128i *below = (const __m128i *)(rows.sums[1] + first + 2 * k * LANES);
            __m256i two = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(above)), _mm_loadu_si128(below), 1);
            two = _mm256_madd_epi16(_mm256_shuffle_epi8(two, by_lane), _mm256_set1_epi32(pair));
            total = _mm256_add_epi32(total, two);
        }
        total = _mm256_srai_epi32(total, ROW_BITS - 1 + COLUMN_BITS);
        total = _mm256_packs_epi32(total, total);
        total = _mm256_packus_epi16(total, total);
        uint32_t above = (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(total));
        uint32_t below = (uint32_t)_mm_cvtsi128_si32(_mm256_extracti128_si256(total, 1));
        store(rows.out[0] + i * channels, above, channels, i == last);
        store(rows.out[1] + i * channels, below, channels, i == last);
    }
}

__attribute__((target("avx2"))) static void
weigh_columns_by_avx2(TwoRows rows, const Filter *filter, int channels, int flip) {
    if (channels == 3 && filter->stride == 2)
        weigh_pairs(rows, filter, 1, 3, flip);
    else if (channels == 3 && filter->stride == 4)
        weigh_pairs(rows, filter, 2, 3, flip);
    else if (channels == 3 && filter->stride == 6)
        weigh_pairs(rows, filter, 3, 3, flip);
    else
        weigh_pairs(rows, filter, filter->stride / 2, channels, flip);
}
#endif

static void weigh_columns(TwoRows rows, const Filter *filter, int channels, int flip) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) {
        weigh_columns_by_avx2(rows, filter, channels, flip);
        return;
    }
#endif
    weigh_columns_anywhere(rows, filter, channels, flip);
}

/* --- libjpeg's errors --- */

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf back;
    char *message;
} Errors;

static void fail(j_common_ptr info) {
    Errors *errors = (Errors *)info->err;
    errors->base.format_message(info, errors->message);
    longjmp(errors->back, 1);
}

static void on_message(j_common_ptr info, int level) {
    if (level < 0) fail(info); /* a warning is damage, over which libjpeg would go on with half a picture */
}

/* --- what the Python side calls --- */

int distdl_native_version(void) { return VERSION; }

static int is_whole(const uint8_t *data, size_t size) {
    while (size > 0 && (data[size - 1] == 0 || data[size - 1] == '\n' || data[size - 1] == '\r')) size--;
    return size >= 2 && data[size - 2] == 0xFF && data[size - 1] == 0xD9;
}

/* shape: height, width, components. From the frame header alone. */
int distdl_jpeg_shape(const uint8_t *data, size_t size, int32_t *shape) {
    if (size < 4 || data[0] != 0xFF || data[1] != 0xD8) return DAMAGED;
    for (size_t at = 2; at + 9 < size;) {
        if (data[at] != 0xFF) return DAMAGED;
        int marker = data[at + 1];
        if (marker == 0xFF) {
            at++;
            continue;
        }
        if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) {
            at += 2;
            continue;
        }
        if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
            shape[0] = data[at + 5] << 8 | data[at + 6];
            shape[1] = data[at + 7] << 8 | data[at + 8];
            shape[2] = data[at + 9];
            return shape[0] && shape[1] ? DONE : ANOTHER_DECODER;
        }
        if (marker == 0xD9 || marker == 0xDA) return DAMAGED;
        at += 2 + (data[at + 2] << 8 | data[at + 3]);
    }
    return DAMAGED;
}

/* The box (in pixels of the whole image, fractions too) resized to out_height x out_width, into `out`: rows of
   `channels` bytes a pixel (3, or 1 for a grey image), `out_stride` bytes apart; mirrored if `flip`.
   `message` has room for MESSAGE_BYTES. */
int distdl_jpeg_resized(const uint8_t *data, size_t size, double top, double left, double height, double width,
                        int out_height, int out_width, int channels, int flip, uint8_t *out, size_t out_stride,
                        char *message) {
    struct jpeg_decompress_struct jpeg;
    Errors errors;
    Filter rows = {0}, columns = {0};
    uint8_t *volatile lines = NULL;
    uint16_t *volatile sums = NULL;
    uint8_t **volatile window = NULL;
    volatile int result = DAMAGED;

    message[0] = 0;
    if (!is_whole(data, size)) return ANOTHER_DECODER;
    jpeg.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = fail;
    errors.base.emit_message = on_message;
    errors.message = message;
    if (setjmp(errors.back)) goto end;
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, data, size);
    jpeg_read_header(&jpeg, TRUE);
    int grey = jpeg.jpeg_color_space == JCS_GRAYSCALE;
    if (!(grey || jpeg.jpeg_color_space == JCS_YCbCr || jpeg.jpeg_color_space == JCS_RGB) || (channels == 1 && !grey)) {
        result = ANOTHER_DECODER;
        goto end;
    }
    jpeg.out_color_space = JCS_EXT_RGBX;
    jpeg.scale_num = 1;
    jpeg.scale_denom = 1;
    while (jpeg.scale_denom < 8 && height >= 2.0 * jpeg.scale_denom * out_height &&
           width >= 2.0 * jpeg.scale_denom * out_width)
        jpeg.scale_denom *= 2;
    double scale = 1.0 / jpeg.scale_denom;
    jpeg_start_decompress(&jpeg);

    if (!make_filter(&rows, top * scale, height * scale, jpeg.output_height, out_height, ROW_BITS) ||
        !make_filter(&columns, left * scale, width * scale, jpeg.output_width, out_width, COLUMN_BITS)) {
        result = NO_MEMORY;
        goto end;
    }
    Span last_column = columns.spans[out_width - 1];
    int from = columns.spans[0].first, until = last_column.first + last_column.count;
    JDIMENSION x = from > 2 ? from - 2 : 0; /* chroma at a cut is made without its neighbour: keep off it */
    JDIMENSION x_end = (JDIMENSION)until + 2 < jpeg.output_width ? (JDIMENSION)until + 2 : jpeg.output_width;
    JDIMENSION n_columns = x_end - x;
    if (n_columns < jpeg.output_width)
        jpeg_crop_scanline(&jpeg, &x, &n_columns); /* moves x to the left, to the edge of a block */
    for (int i = 0; i < out_width; i++) columns.spans[i].first -= (int)x;

    int most = rows.stride;
    int n_values = (until - (int)x) * LANES, padding = columns.stride * LANES;
    size_t line_bytes = (size_t)n_columns * LANES;
    lines = malloc(line_bytes * most);
    sums = calloc(2 * (size_t)(n_values + padding), sizeof(uint16_t));
    window = malloc(most * sizeof(uint8_t *));
    if (!lines || !sums || !window) {
        result = NO_MEMORY;
        goto end;
    }
    int read = rows.spans[0].first; /* lines before this one are past */
    if (read > 0) jpeg_skip_scanlines(&jpeg, read);
    for (int i = 0; i < out_height; i++) {
        Span span = rows.spans[i];
        for (; read < span.first + span.count; read++) {
            JSAMPROW line = lines + line_bytes * (read % most);
            jpeg_read_scanlines(&jpeg, &line, 1);
        }
        for (int k = 0; k < span.count; k++) window[k] = lines + line_bytes * ((span.first + k) % most);
        uint16_t *mine = sums + (i & 1) * (size_t)(n_values + padding);
        weigh_rows(mine, window, span.count, rows.weights + (size_t)i * rows.stride, n_values);
        if (i & 1 || i == out_height - 1) {
            int above = i & 1 ? i - 1 : i;
            TwoRows two = {{out + above * out_stride, out + i * out_stride}, {i & 1 ? sums : mine, mine}};
            weigh_columns(two, &columns, channels, flip);
        }
    }
    result = DONE;
end:
    jpeg_destroy_decompress(&jpeg);
    free_filter(&rows);
    free_filter(&columns);
    free(lines);
    free(sums);
    free((void *)window);
    return result;
}
