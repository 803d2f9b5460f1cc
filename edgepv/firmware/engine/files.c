/* files.c: bytes of plain files, the names they may have, their digests, and who signed the manifest. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle.h"

#define MOST_SIGNATURE ((size_t)4096) /* bytes of manifest.sig: far more than its five fields take */
#define MOST_KEY_FILE ((size_t)4096)  /* bytes of a PEM file: far more than one key takes */
#define KEY_ID 16u                    /* hexadecimal digits that name a key */

edgepv_status edgepv_because(edgepv_why *why, edgepv_status status, const char *format, ...)
{
    if (!why->text || !why->bytes || why->text[0]) return status;
    va_list rest;
    va_start(rest, format);
    int length = vsnprintf(why->text, why->bytes, format, rest);
    va_end(rest);
    if (length < 0) why->text[0] = 0;
    for (char *at = why->text; *at; at++) /* names come from files: one line, whatever they hold */
        if ((unsigned char)*at < 0x20u || *at == 0x7F) *at = '?';
    return status;
}

int edgepv_plain_part(const char *name)
{
    size_t length = strlen(name);
    if (!length || length > EDGEPV_MOST_NAME || name[0] == '.' || name[0] == ' ' || name[length - 1] == ' ')
        return 0;
    for (const unsigned char *at = (const unsigned char *)name; *at; at++) {
        if (*at < 0x20u || *at == 0x7Fu || *at == '/' || *at == '\\') return 0;
        if (*at == 0xC2u && at[1] < 0xA0u) return 0; /* the control characters U+0080 to U+009F */
    }
    return 1;
}

/* The file at a path, opened part by part so that no link leads out of the folder; -1 if that cannot be. */
static int open_plain(int folder, const char *path)
{
    char part[EDGEPV_MOST_NAME + 1];
    int at = dup(folder);
    while (at >= 0) {
        const char *slash = strchr(path, '/');
        size_t length = slash ? (size_t)(slash - path) : strlen(path);
        int next = -1;
        if (length < sizeof part) {
            memcpy(part, path, length);
            part[length] = 0;
            int how = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | (slash ? O_DIRECTORY : O_NONBLOCK);
            next = edgepv_plain_part(part) ? openat(at, part, how) : (errno = EINVAL, -1);
        }
        int error = errno;
        close(at);
        errno = error;
        if (next < 0 || !slash) return next;
        at = next;
        path = slash + 1;
    }
    return -1;
}

static edgepv_status read_all(int file, const char *path, size_t most, size_t ahead, char **memory,
                              size_t *bytes, edgepv_why *why)
{
    struct stat facts;
    if (fstat(file, &facts) || !S_ISREG(facts.st_mode))
        return edgepv_because(why, EDGEPV_INPUT, "%s is a link or no plain file. Do not use this bundle",
                              path);
    if (facts.st_size < 0 || (uint64_t)facts.st_size > most)
        return edgepv_because(why, EDGEPV_INPUT, "%s is larger than %zu bytes. Do not use this bundle", path,
                              most);
    size_t size = (size_t)facts.st_size, got = 0;
    char *data = malloc(ahead + size + 1);
    if (!data) return edgepv_because(why, EDGEPV_MEMORY, "no memory for the %zu bytes of %s", size, path);
    while (got < size) {
        ssize_t more = read(file, data + ahead + got, size - got);
        if (more < 0 && errno == EINTR) continue;
        if (more <= 0) break;
        got += (size_t)more;
    }
    if (got < size) {
        free(data);
        return edgepv_because(why, EDGEPV_INPUT, "%s cannot be read to its end. Copy the bundle again", path);
    }
    *memory = data;
    *bytes = size;
    return EDGEPV_OK;
}

edgepv_status edgepv_read_file(int folder, const char *path, size_t most, size_t ahead, char **memory,
                               size_t *bytes, edgepv_why *why)
{
    int file = open_plain(folder, path);
    if (file < 0)
        return edgepv_because(why, EDGEPV_INPUT, "%s cannot be opened (%s). Copy or export the bundle again",
                              path, strerror(errno));
    edgepv_status status = read_all(file, path, most, ahead, memory, bytes, why);
    close(file);
    return status;
}

int edgepv_has_sha256(const void *data, size_t bytes, const char *hex)
{
    unsigned char wanted[crypto_hash_sha256_BYTES], got[crypto_hash_sha256_BYTES];
    size_t length;
    if (sodium_hex2bin(wanted, sizeof wanted, hex, strlen(hex), NULL, &length, NULL) ||
        length != sizeof wanted)
        return 0;
    crypto_hash_sha256(got, data, bytes);
    return !sodium_memcmp(got, wanted, sizeof got);
}

/* The 32 bytes of an Ed25519 key in PEM, as openssl and edgepv keygen write it (RFC 8410). */
static int read_key(const char *path, unsigned char key[crypto_sign_PUBLICKEYBYTES], edgepv_why *why)
{
    static const char begin[] = "-----BEGIN PUBLIC KEY-----", stop[] = "-----END PUBLIC KEY-----";
    static const unsigned char head[] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                                         0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
    unsigned char der[sizeof head + crypto_sign_PUBLICKEYBYTES];
    char *text = NULL;
    size_t bytes, length = 0;
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), good = 0;
    if (file >= 0 && read_all(file, path, MOST_KEY_FILE, 0, &text, &bytes, why) == EDGEPV_OK) {
        text[bytes] = 0;
        char *from = strstr(text, begin), *to = from ? strstr(from, stop) : NULL;
        good = to && !sodium_base642bin(der, sizeof der, from + sizeof begin - 1,
                                        (size_t)(to - from) - (sizeof begin - 1), "\r\n ", &length, NULL,
                                        sodium_base64_VARIANT_ORIGINAL);
        good = good && length == sizeof der && !memcmp(der, head, sizeof head);
    }
    if (file >= 0) close(file);
    free(text);
    if (good) memcpy(key, der + sizeof head, crypto_sign_PUBLICKEYBYTES);
    return good;
}

typedef struct {
    int64_t schema, version;
    char key[KEY_ID + 1];
    unsigned char bytes[crypto_sign_BYTES];
} signature;

/* What manifest.sig holds; schema 1 had no version. */
static int read_signature(const char *text, size_t bytes, signature *found)
{
    edgepv_json whole, value;
    char encoded[128];
    size_t length = 0;
    if (!edgepv_json_check(text, bytes, &whole)) return 0;
    if (edgepv_json_find(whole, "schema", &value) != 1 || !edgepv_json_whole(value, 1, 2, &found->schema))
        return 0;
    if (edgepv_json_find(whole, "algorithm", &value) != 1 || !edgepv_json_is(value, "ed25519")) return 0;
    if (edgepv_json_find(whole, "key", &value) != 1 ||
        edgepv_json_text(value, found->key, sizeof found->key) < 0)
        return 0;
    int told = edgepv_json_find(whole, "version", &value);
    found->version = 0;
    if (told > 1 || (told && !edgepv_json_whole(value, 0, INT64_MAX, &found->version))) return 0;
    if ((found->schema == 1) != (found->version == 0)) return 0;
    if (edgepv_json_find(whole, "signature", &value) != 1 ||
        edgepv_json_text(value, encoded, sizeof encoded) < 0)
        return 0;
    return !sodium_base642bin(found->bytes, sizeof found->bytes, encoded, strlen(encoded), NULL, &length,
                              NULL, sodium_base64_VARIANT_ORIGINAL) &&
           length == sizeof found->bytes;
}

/* Whether a key signed this: a prefix, since schema 2 the version, and the manifest's bytes.
 * The prefix is written in front of the manifest. */
static int signs(const signature *found, const unsigned char *key, char *manifest, size_t bytes)
{
    char ahead[EDGEPV_AHEAD];
    int length = found->schema == 1 ? snprintf(ahead, sizeof ahead, "edgepv-manifest-v1")
                                    : snprintf(ahead, sizeof ahead, "edgepv-manifest-v2%c%lld", 0,
                                               (long long)found->version);
    if (length < 0 || (size_t)length + 1 > sizeof ahead) return 0;
    size_t count = (size_t)length + 1; /* with the 0 behind it */
    memcpy(manifest - count, ahead, count);
    const unsigned char *message = (const unsigned char *)(manifest - count);
    return !crypto_sign_verify_detached(found->bytes, message, bytes + count, key);
}

edgepv_status edgepv_check_signature(int folder, const char *public_key, char *manifest, size_t bytes,
                                     edgepv_why *why)
{
    unsigned char key[crypto_sign_PUBLICKEYBYTES], hash[crypto_hash_sha256_BYTES];
    char *text = NULL, id[2 * sizeof hash + 1];
    size_t length;
    signature found;
    if (!read_key(public_key, key, why))
        return edgepv_because(why, EDGEPV_SIGNATURE,
                              "%s is no Ed25519 public key in PEM. Give the signer's .pub.pem", public_key);
    if (edgepv_read_file(folder, "manifest.sig", MOST_SIGNATURE, 0, &text, &length, why) != EDGEPV_OK)
        return EDGEPV_SIGNATURE;
    int good = read_signature(text, length, &found);
    free(text);
    if (!good)
        return edgepv_because(why, EDGEPV_SIGNATURE,
                              "manifest.sig is no signature. Copy the bundle again, or sign it");
    crypto_hash_sha256(hash, key, sizeof key);
    sodium_bin2hex(id, sizeof id, hash, sizeof hash);
    id[KEY_ID] = 0;
    if (strcmp(id, found.key))
        return edgepv_because(why, EDGEPV_SIGNATURE, "the bundle is signed by key %s, not by %s (%s)",
                              found.key, id, public_key);
    if (!signs(&found, key, manifest, bytes))
        return edgepv_because(
            why, EDGEPV_SIGNATURE,
            "manifest.json is not what key %s signed; it or the signature was changed since. "
            "Copy the bundle again",
            id);
    return EDGEPV_OK;
}
