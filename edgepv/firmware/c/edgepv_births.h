/* edgepv_births.h: which particles of a tracker begin and end at a frame, number for number as runtimes/births.py,
 * whose words and limits these are. For edgepv_core.c alone.
 *
 * Corners are those of OpenCV's goodFeaturesToTrack (Shi & Tomasi 1994, "Good Features to Track") as it computes them
 * on a processor with AVX2: where it joins a product and a sum into one rounding, so does this.
 */
#ifndef EDGEPV_BIRTHS_H
#define EDGEPV_BIRTHS_H

#include "edgepv_picture.h"

#include <math.h>

#define LOOK 192u            /* height, in pixels, of the picture in which corners are looked for */
#define SEEN 0.5f            /* a visibility above this counts as seen */
#define PATIENCE 12u         /* frames not seen before a particle dies */
#define MARGIN 0.02          /* how far outside the frame it may go, in image heights as all lengths */
#define JUMP 0.15f           /* the fastest it may move while seen; more is a mistake */
#define TOUCH 0.008f         /* of two seen particles closer than this the younger dies */
#define APART 0.06           /* least distance of a new one from all others and from the border */
#define EVERY 5u             /* frames between two looks for new ones */
#define QUALITY 0.02         /* least strength of a corner, as a share of the strongest */
#define CORNERS_PER_PLACE 4u /* the most that are looked at */
#define LANES 32u            /* columns that OpenCV filters at once, fused; it rounds each product of the rest */

typedef struct { /* a particle's place */
    float x, y, visibility;
    int32_t id; /* -1 for none */
    uint32_t age, unseen, dead;
} place;

typedef struct {
    uint32_t count, frames;
    int32_t next;
    double aspect;
    place *places;
    int32_t *ids;      /* of the frame before the last births: what the answer speaks of */
    resizer picture;   /* of LOOK rows */
    uint8_t *grey;     /* that picture */
    float *strengths;  /* of its corners; those that may be taken are negative */
    float *strongest;  /* of each row, negative; 0 for none */
    float *products;   /* of one row's slopes: xx, xy, yy */
    double *sums[3];   /* three rows of those, summed over three columns */
    double *column;    /* and over rows */
} births;

/* --- corners ----------------------------------------------------------------------------------------- */

static float fused(float a, float b, float c)
{
    return (float)((double)a * (double)b + (double)c);
}

/* The mirror of a row or column that lies one outside. */
static uint32_t inside(int32_t at, uint32_t length)
{
    return at < 0 ? 1 : at >= (int32_t)length ? length - 2 : (uint32_t)at;
}

static float smoothed(float before, float here, float after, uint32_t x, uint32_t width)
{
    const float unit = (float)(1.0 / 3060.0), twice = unit * 2.0f; /* 3060: 4 of Sobel, 3 of the block, 255 */

    if (x < width / LANES * LANES)
        return fused(after, unit, fused(here, twice, before * unit));
    return (before * unit + here * twice) + after * unit;
}

/* Slopes of row y by Sobel, and their products. */
static void make_products(const births *b, uint32_t y)
{
    const float unit = (float)(1.0 / 3060.0), twice = unit * 2.0f;
    const uint32_t width = b->picture.width;
    const uint8_t *upper = b->grey + (size_t)inside((int32_t)y - 1, LOOK) * width;
    const uint8_t *here = b->grey + (size_t)y * width;
    const uint8_t *lower = b->grey + (size_t)inside((int32_t)y + 1, LOOK) * width;

    for (uint32_t x = 0; x < width; x++) {
        uint32_t left = inside((int32_t)x - 1, width), right = inside((int32_t)x + 1, width);
        float sides = (float)(upper[right] - upper[left] + lower[right] - lower[left]);
        float dx = fused(sides, unit, (float)(here[right] - here[left]) * twice);
        float dy = smoothed(lower[left], lower[x], lower[right], x, width) -
                   smoothed(upper[left], upper[x], upper[right], x, width);
        b->products[3 * x] = dx * dx;
        b->products[3 * x + 1] = dx * dy;
        b->products[3 * x + 2] = dy * dy;
    }
}

static void sum_row(const births *b, int32_t y, double *sums)
{
    const uint32_t width = b->picture.width;

    make_products(b, inside(y, LOOK));
    for (uint32_t x = 0; x < width; x++) {
        const float *left = b->products + 3 * inside((int32_t)x - 1, width), *here = b->products + 3 * x;
        const float *right = b->products + 3 * inside((int32_t)x + 1, width);
        for (uint32_t k = 0; k < 3; k++)
            sums[3 * x + k] = ((double)left[k] + (double)here[k]) + (double)right[k];
    }
}

/* The smaller eigenvalue of each pixel's slopes in a block of 3 x 3; returns the largest of them. */
static float make_strengths(const births *b)
{
    const uint32_t width = b->picture.width;
    float most = 0.0f;

    sum_row(b, -1, b->sums[0]);
    sum_row(b, 0, b->sums[1]);
    for (uint32_t i = 0; i < 3 * width; i++)
        b->column[i] = b->sums[0][i] + b->sums[1][i];
    for (uint32_t y = 0; y < LOOK; y++) {
        const double *first = b->sums[y % 3], *last = b->sums[(y + 2) % 3];
        float *strength = b->strengths + (size_t)y * width;
        sum_row(b, (int32_t)y + 1, b->sums[(y + 2) % 3]);
        for (uint32_t x = 0; x < width; x++) {
            float block[3];
            for (uint32_t k = 0, i = 3 * x; k < 3; k++, i++) {
                double sum = b->column[i] + last[i]; /* a running sum, as OpenCV's box filter keeps it */
                block[k] = (float)sum;
                b->column[i] = sum - first[i];
            }
            float xx = block[0] * 0.5f, yy = block[2] * 0.5f, half = xx - yy;
            strength[x] = (xx + yy) - sqrtf(half * half + block[1] * block[1]);
            most = strength[x] > most ? strength[x] : most;
        }
    }
    return most;
}

static float magnitude(float value)
{
    return value < 0.0f ? -value : value;
}

static int is_peak(const float *at, size_t width, float least)
{
    float value = *at;

    if (!(value > least))
        return 0;
    for (const float *row = at - width; row <= at + width; row += width)
        if (magnitude(row[-1]) > value || magnitude(row[0]) > value || magnitude(row[1]) > value)
            return 0;
    return 1;
}

static void find_strongest(const births *b, uint32_t y)
{
    const float *row = b->strengths + (size_t)y * b->picture.width;
    float best = 0.0f;

    for (uint32_t x = 0; x < b->picture.width; x++)
        best = row[x] < best ? row[x] : best;
    b->strongest[y] = best;
}

/* Make peaks negative and all else not. */
static void mark_peaks(const births *b, float least)
{
    const uint32_t width = b->picture.width;

    for (uint32_t y = 0; y < LOOK; y++)
        for (uint32_t x = 0; x < width; x++) {
            float *at = b->strengths + (size_t)y * width + x;
            if (y > 0 && y + 1 < LOOK && x > 0 && x + 1 < width && is_peak(at, width, least))
                *at = -*at;
            else if (*at < 0.0f) /* rounding may put a flat place below nothing */
                *at = 0.0f;
        }
    for (uint32_t y = 0; y < LOOK; y++)
        find_strongest(b, y);
}

/* Take back all peaks near (x, y). */
static void clear_around(const births *b, uint32_t x, uint32_t y)
{
    const double least = APART * LOOK;
    const int32_t reach = (int32_t)least, width = (int32_t)b->picture.width;

    for (int32_t dy = -reach; dy <= reach; dy++) {
        int32_t row = (int32_t)y + dy;
        if (row < 0 || row >= (int32_t)LOOK)
            continue;
        for (int32_t dx = -reach; dx <= reach; dx++) {
            int32_t column = (int32_t)x + dx;
            if (column >= 0 && column < width && (double)(dx * dx + dy * dy) < least * least)
                b->strengths[row * width + column] = 0.0f;
        }
        find_strongest(b, (uint32_t)row);
    }
}

/* The strongest peak that is left, the last of equal ones; 0 if there is none. */
static int next_corner(const births *b, uint32_t *x, uint32_t *y)
{
    float best = 0.0f;

    for (uint32_t row = 0; row < LOOK; row++)
        if (b->strongest[row] < 0.0f && b->strongest[row] <= best) {
            best = b->strongest[row];
            *y = row;
        }
    if (!(best < 0.0f))
        return 0;
    for (uint32_t column = 0; column < b->picture.width; column++)
        if (b->strengths[(size_t)*y * b->picture.width + column] == best)
            *x = column;
    clear_around(b, *x, *y);
    return 1;
}

static void look(births *b, const edgepv_frame *frame)
{
    b->picture.held[0] = b->picture.held[1] = 0;
    for (uint32_t y = 0; y < LOOK; y++)
        grey_row(&b->picture, resized_row(&b->picture, frame, y), b->grey + (size_t)y * b->picture.width);
    float most = make_strengths(b);
    mark_peaks(b, (float)((double)most * QUALITY));
}

/* --- who lives --------------------------------------------------------------------------------------- */

static float distance(float x, float y)
{
    return sqrtf(x * x + y * y);
}

/* Whether a point is more than `margin` outside the frame; NumPy compares with a float first, with a double then. */
static int is_outside(const births *b, float x, float y, double margin)
{
    float least = (float)-margin;
    return x < least || y < least || (double)x > b->aspect + margin || (double)y > 1.0 + margin;
}

static int touches_older(const births *b, uint32_t k)
{
    const place *p = &b->places[k];

    for (uint32_t i = 0; i < b->count; i++) {
        const place *other = &b->places[i];
        if (other->id >= 0 && other->id < p->id && other->visibility > SEEN && other->dead != 1 &&
            distance(p->x - other->x, p->y - other->y) < TOUCH)
            return 1;
    }
    return 0;
}

/* Take the model's answer, `row` values a particle, and empty the places of those who died; whether anybody did. */
static int bury(births *b, const float *tracks, size_t row)
{
    int any = 0;

    for (uint32_t k = 0; k < b->count; k++, tracks += row) {
        place *p = &b->places[k];
        float x = tracks[0], y = tracks[1], visibility = tracks[row - 1];
        int seen = visibility > SEEN, jumped = distance(x - p->x, y - p->y) > JUMP;
        p->unseen = seen ? 0 : p->unseen + 1;
        p->dead = 0;
        if (p->id < 0)
            continue;
        p->age++;
        p->x = x;
        p->y = y;
        p->visibility = visibility;
        p->dead = p->unseen >= PATIENCE || (seen && jumped) || is_outside(b, x, y, MARGIN);
    }
    for (uint32_t k = 0; k < b->count; k++) /* 2: of the touch of another, who may die of a touch as well */
        if (b->places[k].id >= 0 && !b->places[k].dead && b->places[k].visibility > SEEN && touches_older(b, k))
            b->places[k].dead = 2;
    for (uint32_t k = 0; k < b->count; k++) {
        place *p = &b->places[k];
        if (!p->dead)
            continue;
        p->x = p->y = p->visibility = 0.0f;
        p->id = -1;
        any = 1;
    }
    return any;
}

static int is_near_others(const births *b, float x, float y)
{
    for (uint32_t k = 0; k < b->count; k++)
        if (b->places[k].id >= 0 && distance(b->places[k].x - x, b->places[k].y - y) < (float)APART)
            return 1;
    return 0;
}

/* Fill empty places with new corners, the strongest first; whether any was filled. */
static int bear(births *b, const edgepv_frame *frame)
{
    uint32_t at = 0, x = 0, y = 0, filled = 0;

    while (at < b->count && b->places[at].id >= 0)
        at++;
    if (at == b->count)
        return 0;
    look(b, frame);
    for (uint32_t tried = 0; at < b->count && tried < CORNERS_PER_PLACE * b->count && next_corner(b, &x, &y); tried++) {
        float px = ((float)x + 0.5f) / (float)LOOK, py = ((float)y + 0.5f) / (float)LOOK;
        if (is_outside(b, px, py, -APART) || is_near_others(b, px, py))
            continue;
        b->places[at] = (place){px, py, 1.0f, b->next++, 0, 0, 0};
        filled++;
        while (at < b->count && b->places[at].id >= 0)
            at++;
    }
    return filled > 0;
}

/* What the model's states are to be before its next step. position: (count, 2); life: 2 for a particle born now, 1 for
 * one that goes on, -1 for an empty place. */
static void write_states(const births *b, float *position, float *life)
{
    for (uint32_t k = 0; k < b->count; k++) {
        const place *p = &b->places[k];
        position[2 * k] = p->x;
        position[2 * k + 1] = p->y;
        life[k] = p->id < 0 ? -1.0f : p->age == 0 ? 2.0f : 1.0f;
    }
}

static void births_reset(births *b)
{
    b->frames = 0;
    for (uint32_t k = 0; k < b->count; k++)
        b->places[k] = (place){0.0f, 0.0f, 0.0f, -1, 0, 0, 0};
}

/* Go on by a frame. tracks: what the model answered to it; NULL before the first. Returns whether states change. */
static int births_update(births *b, const float *tracks, size_t row, const edgepv_frame *frame)
{
    int changed = tracks == NULL || bury(b, tracks, row);

    if (b->frames % EVERY == 0)
        changed |= bear(b, frame);
    b->frames++;
    return changed;
}

static uint32_t look_width(const edgepv_model *m)
{
    double width = LOOK * ((double)m->width / (double)m->height);
    uint32_t whole = (uint32_t)width;
    double part = width - whole;

    whole += part > 0.5 || (part == 0.5 && whole % 2 == 1); /* Python's round */
    return whole < 8 ? 8 : whole;
}

static void make_births(births *b, const edgepv_model *m, const edgepv_camera *camera, store *from)
{
    const uint32_t width = look_width(m);

    memset(b, 0, sizeof *b);
    b->count = m->particles;
    b->aspect = (double)m->width / (double)m->height;
    make_resizer(&b->picture, camera, width, LOOK, from);
    b->places = take(from, b->count * sizeof *b->places);
    b->ids = take(from, b->count * sizeof *b->ids);
    b->grey = take(from, (size_t)width * LOOK);
    b->strengths = take(from, (size_t)width * LOOK * sizeof(float));
    b->strongest = take(from, LOOK * sizeof(float));
    b->products = take(from, (size_t)3 * width * sizeof(float));
    for (int k = 0; k < 3; k++)
        b->sums[k] = take(from, (size_t)3 * width * sizeof(double));
    b->column = take(from, (size_t)3 * width * sizeof(double));
    if (from->base != NULL)
        births_reset(b);
}

#endif
