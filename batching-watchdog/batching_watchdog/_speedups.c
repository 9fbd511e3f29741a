/* Reads a plain request that came whole.
 *
 * It returns None for every other input, and the parser's Python code, which has all rules and errors, reads that. So
 * nothing is refused here, and a build without a compiler only costs speed. `speedups` says whether it is in use;
 * tests/watchdog/front/test_conformance.py compares both.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

enum { TOKEN = 1, TARGET = 2, VALUE = 4, AUTHORITY = 8, DIGIT = 16 };
static uint8_t kinds[256];

static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
enum { METHODS = sizeof methods / sizeof *methods };
static PyObject *method_objects[METHODS];

/* They say where a request ends or what becomes of its connection. */
static const char *const left_to_the_parser[] = {"transfer-encoding", "expect", "upgrade", "proxy-connection"};

static void allow(uint8_t kind, const char *characters) {
    for (; *characters; characters++)
        kinds[(uint8_t)*characters] |= kind;
}

static void fill_kinds(void) {
    for (int c = '0'; c <= '9'; c++)
        kinds[c] = TOKEN | TARGET | AUTHORITY | DIGIT;
    for (int c = 'a'; c <= 'z'; c++)
        kinds[c] = kinds[c - 'a' + 'A'] = TOKEN | TARGET | AUTHORITY;
    for (int c = '!'; c <= '~'; c++)
        kinds[c] |= VALUE;
    allow(TOKEN, "!#$%&'*+-.^_`|~");                  /* RFC 9110, 5.6.2 */
    allow(TARGET, "-._~%!$&'()*+,;=:@/?");            /* RFC 3986, 3.3 and 3.4 */
    allow(AUTHORITY, "-._~%!$&'()*+,;=:[]");          /* RFC 3986, 3.2.2 */
}

static const char *span(const char *at, const char *end, uint8_t kind) {
    while (at < end && kinds[(uint8_t)*at] & kind)
        at++;
    return at;
}

/* Whether text is `lower`, in whatever case. Letters and '-' only. */
static int is(const char *text, Py_ssize_t length, const char *lower, Py_ssize_t lower_length) {
    if (length != lower_length)
        return 0;
    for (Py_ssize_t i = 0; i < length; i++)
        if ((text[i] >= 'A' && text[i] <= 'Z' ? text[i] | 0x20 : text[i]) != lower[i])
            return 0;
    return 1;
}

/* The last value of each of these names (bytes, lower case), into a dictionary that is made when needed. -1: error. */
static int capture(PyObject **captured, PyObject *names, const char *name, Py_ssize_t length, const char *value,
                Py_ssize_t value_length) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *wanted = PyTuple_GET_ITEM(names, i);
        if (!is(name, length, PyBytes_AS_STRING(wanted), PyBytes_GET_SIZE(wanted)))
            continue;
        if (*captured == NULL && (*captured = PyDict_New()) == NULL)
            return -1;
        PyObject *made = PyBytes_FromStringAndSize(value, value_length);
        if (made == NULL)
            return -1;
        int failed = PyDict_SetItem(*captured, wanted, made);
        Py_DECREF(made);
        return failed;
    }
    return 0;
}

static PyObject *plain_request(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    (void)self;
    if (count != 3 || !PyBytes_Check(arguments[0]) || !PyTuple_Check(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "plain_request(data: bytes, captured: tuple of bytes, max_head: int)");
        return NULL;
    }
    PyObject *names = arguments[1], *captured = NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++)
        if (!PyBytes_Check(PyTuple_GET_ITEM(names, i))) {
            PyErr_SetString(PyExc_TypeError, "the names of headers are bytes");
            return NULL;
        }
    const Py_ssize_t max_head = PyLong_AsSsize_t(arguments[2]);
    if (max_head == -1 && PyErr_Occurred())
        return NULL;
    const char *const data = PyBytes_AS_STRING(arguments[0]), *const end = data + PyBytes_GET_SIZE(arguments[0]);

    const char *target = memchr(data, ' ', (size_t)(end - data < 8 ? end - data : 8));
    if (target == NULL)
        Py_RETURN_NONE;
    PyObject *method = NULL;
    for (int i = 0; i < METHODS; i++)
        if (strlen(methods[i]) == (size_t)(target - data) && memcmp(methods[i], data, (size_t)(target - data)) == 0)
            method = method_objects[i];
    target++;
    const char *const target_end = span(target, end, TARGET);
    if (method == NULL || target_end == target || *target != '/' || end - target_end < 11 ||
        memcmp(target_end, " HTTP/1.1\r\n", 11) != 0)
        Py_RETURN_NONE;

    const char *const lines = target_end + 11, *at = lines;
    int hosts = 0;
    Py_ssize_t length = -1;
    while (at < end && *at != '\r') {
        const char *const name_end = span(at, end, TOKEN);
        if (name_end == at || end - name_end < 3 || name_end[0] != ':' || name_end[1] != ' ')
            goto other;
        const char *const value = name_end + 2, *value_end = value;
        while (value_end < end && (*value_end == ' ' || kinds[(uint8_t)*value_end] & VALUE))
            value_end++;
        if (value_end == value || *value == ' ' || value_end[-1] == ' ' || end - value_end < 2 || value_end[0] != '\r' ||
            value_end[1] != '\n')
            goto other;
        const Py_ssize_t name_length = name_end - at, value_length = value_end - value;
        if (is(at, name_length, "host", 4)) {
            if (hosts++ || span(value, value_end, AUTHORITY) != value_end)
                goto other;
        } else if (is(at, name_length, "content-length", 14)) {
            if (length >= 0 || value_length > 15 || span(value, value_end, DIGIT) != value_end)
                goto other;
            length = 0;
            for (const char *digit = value; digit < value_end; digit++)
                length = 10 * length + (*digit - '0');
        } else if (is(at, name_length, "connection", 10)) {
            if (!is(value, value_length, "keep-alive", 10))
                goto other;
        } else {
            for (size_t i = 0; i < sizeof left_to_the_parser / sizeof *left_to_the_parser; i++)
                if (is(at, name_length, left_to_the_parser[i], (Py_ssize_t)strlen(left_to_the_parser[i])))
                    goto other;
            if (capture(&captured, names, at, name_length, value, value_length) < 0)
                goto failed;
        }
        at = value_end + 2;
    }
    if (end - at < 2 || at[1] != '\n' || hosts != 1 || at + 2 - data > max_head ||
        end - (at + 2) != (length < 0 ? 0 : length))
        goto other;

    /* As wire.request_header_block makes it: the request line without the version, then the lines. */
    PyObject *head = PyBytes_FromStringAndSize(NULL, (target_end - data) + 2 + (at - lines));
    if (head == NULL)
        goto failed;
    char *to = PyBytes_AS_STRING(head);
    memcpy(to, data, (size_t)(target_end - data));
    memcpy(to + (target_end - data), "\r\n", 2);
    memcpy(to + (target_end - data) + 2, lines, (size_t)(at - lines));
    if (captured == NULL) {
        captured = Py_None;
        Py_INCREF(captured);
    }
    return Py_BuildValue("(Oy#NNny#)", method, target, (Py_ssize_t)(target_end - target), head, captured, length, at + 2,
                         (Py_ssize_t)(end - at - 2));
other:
    Py_XDECREF(captured);
    Py_RETURN_NONE;
failed:
    Py_XDECREF(captured);
    return NULL;
}

static PyMethodDef functions[] = {
    {"plain_request", (PyCFunction)(void (*)(void))plain_request, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_speedups", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__speedups(void) {
    fill_kinds();
    for (int i = 0; i < METHODS; i++)
        if (method_objects[i] == NULL && (method_objects[i] = PyBytes_FromString(methods[i])) == NULL)
            return NULL;
    return PyModule_Create(&module);
}
