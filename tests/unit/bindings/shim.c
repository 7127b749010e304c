/*
 * Stands in the place of some of libvirt's functions, and remembers what they were given.
 * Loaded beside libvirt, whose other functions it calls.
 */
#define _GNU_SOURCE
#include <libvirt/libvirt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAIT_S 10

/* Flags with which a function returns when somebody calls shim_release, and fails if nobody does. */
#define WAIT (1U << 31)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int is_inside, is_released;
static void *volatile lost;

/* What was given, one parameter a line: key, type, value. */
char shim_given[8192];
unsigned int shim_flags;

static void remember(virTypedParameterPtr params, unsigned int count, unsigned int flags) {
    const char *file = getenv("SHIM_GIVEN");
    char *end = shim_given;
    shim_flags = flags;
    *end = '\0';
    for (unsigned int i = 0; i < count; i++) {
        size_t left = sizeof(shim_given) - (end - shim_given);
        end += snprintf(end, left, "%s %d ", params[i].field, params[i].type);
        left = sizeof(shim_given) - (end - shim_given);
        switch (params[i].type) {
        case VIR_TYPED_PARAM_INT: end += snprintf(end, left, "%d\n", params[i].value.i); break;
        case VIR_TYPED_PARAM_UINT: end += snprintf(end, left, "%u\n", params[i].value.ui); break;
        case VIR_TYPED_PARAM_LLONG: end += snprintf(end, left, "%lld\n", params[i].value.l); break;
        case VIR_TYPED_PARAM_ULLONG: end += snprintf(end, left, "%llu\n", params[i].value.ul); break;
        case VIR_TYPED_PARAM_DOUBLE: end += snprintf(end, left, "%g\n", params[i].value.d); break;
        case VIR_TYPED_PARAM_BOOLEAN: end += snprintf(end, left, "%d\n", params[i].value.b); break;
        case VIR_TYPED_PARAM_STRING: end += snprintf(end, left, "%s\n", params[i].value.s); break;
        }
    }
    if (file) {
        FILE *out = fopen(file, "w");
        if (out) {
            fputs(shim_given, out);
            fclose(out);
        }
    }
}

static int wait_until_released(void) {
    struct timespec end;
    int code = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += WAIT_S;
    pthread_mutex_lock(&mutex);
    is_inside = 1;
    pthread_cond_broadcast(&changed);
    while (!is_released && !code)
        code = pthread_cond_timedwait(&changed, &mutex, &end);
    is_inside = is_released = 0;
    pthread_mutex_unlock(&mutex);
    return code ? -1 : 0;
}

int virDomainMigrateToURI3(virDomainPtr domain, const char *dconnuri, virTypedParameterPtr params,
                           unsigned int nparams, unsigned int flags) {
    (void)domain;
    (void)dconnuri;
    remember(params, nparams, flags);
    return 0;
}

/* The domain there is the domain here, once more. */
virDomainPtr virDomainMigrate3(virDomainPtr domain, virConnectPtr dconn, virTypedParameterPtr params,
                               unsigned int nparams, unsigned int flags) {
    (void)dconn;
    remember(params, nparams, flags);
    if (flags == WAIT && wait_until_released())
        return NULL;
    return virDomainLookupByName(virDomainGetConnect(domain), virDomainGetName(domain));
}

int shim_wait_until_inside(void) {
    struct timespec end;
    int code = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += WAIT_S;
    pthread_mutex_lock(&mutex);
    while (!is_inside && !code)
        code = pthread_cond_timedwait(&changed, &mutex, &end);
    pthread_mutex_unlock(&mutex);
    return code;
}

void shim_release(void) {
    pthread_mutex_lock(&mutex);
    is_released = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

int virDomainAbortJobFlags(virDomainPtr domain, unsigned int flags) {
    (void)domain;
    shim_flags = flags;
    return 0;
}

/* With flags 2 it loses a few bytes, for the test that looks for lost ones. */
int virDomainMigrateStartPostCopy(virDomainPtr domain, unsigned int flags) {
    (void)domain;
    if (flags == 2)
        lost = malloc(16);
    return flags == WAIT ? wait_until_released() : 0;
}
