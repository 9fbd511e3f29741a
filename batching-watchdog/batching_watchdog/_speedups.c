/* What every request passes through, for the plain case: the request that came whole, the frame of usual size.
 *
 * Each function does what one in Python does, and answers None for all that is not plain: then that one is asked,
 * which knows every rule and has a word for every error. So nothing is refused here, and a build without a compiler
 * lacks nothing but speed. `speedups` says which is in use; tests/watchdog/test_speedups.py compares them.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

/* The frame of `wire`: magic, kind, 3 bytes zero, count, size, seconds; little-endian. */
enum { FRAME = 28, ITEM = 12, REQUESTS = 2, REPLIES = 3, FAILED = 1 };

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

static void put16(char *to, uint32_t value) {
    to[0] = (char)value;
    to[1] = (char)(value >> 8);
}

static void put32(char *to, uint32_t value) {
    put16(to, value);
    put16(to + 2, value >> 16);
}

static void put64(char *to, uint64_t value) {
    put32(to, (uint32_t)value);
    put32(to + 4, (uint32_t)(value >> 32));
}

static uint32_t get16(const char *from) { return (uint32_t)(uint8_t)from[0] | (uint32_t)(uint8_t)from[1] << 8; }

static uint32_t get32(const char *from) { return get16(from) | get16(from + 2) << 16; }

/* Of (head, body) pairs, or of replies (status, head, body, failed): named tuples are tuples. */
static PyObject *encode(PyObject *items, int kind, double seconds, Py_ssize_t most) {
    const Py_ssize_t count = PyTuple_GET_SIZE(items), width = kind == REPLIES ? 4 : 2, first = kind == REPLIES;
    Py_ssize_t size = ITEM * count, heads = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != width || !PyBytes_Check(PyTuple_GET_ITEM(item, first)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(item, first + 1)))
            Py_RETURN_NONE;
        heads += PyBytes_GET_SIZE(PyTuple_GET_ITEM(item, first));
        size += PyBytes_GET_SIZE(PyTuple_GET_ITEM(item, first)) + PyBytes_GET_SIZE(PyTuple_GET_ITEM(item, first + 1));
        if (FRAME + size >= most)
            Py_RETURN_NONE;
    }
    PyObject *frame = PyBytes_FromStringAndSize(NULL, FRAME + size);
    if (frame == NULL)
        return NULL;
    char *const data = PyBytes_AS_STRING(frame), *item_to = data + FRAME, *head_to = item_to + ITEM * count,
                *body_to = head_to + heads;
    uint64_t bits;
    memcpy(data, "TBW1", 4);
    put32(data + 4, (uint32_t)kind);
    put32(data + 8, (uint32_t)count);
    put64(data + 12, (uint64_t)size);
    memcpy(&bits, &seconds, sizeof bits);
    put64(data + 20, bits);
    for (Py_ssize_t i = 0; i < count; i++, item_to += ITEM) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        PyObject *head = PyTuple_GET_ITEM(item, first), *body = PyTuple_GET_ITEM(item, first + 1);
        long status = 0;
        int failed = 0;
        if (kind == REPLIES) {
            PyObject *number = PyTuple_GET_ITEM(item, 0);
            status = PyLong_CheckExact(number) ? PyLong_AsLong(number) : -1;
            failed = PyTuple_GET_ITEM(item, 3) == Py_True;
            if (status < 0 || status > UINT16_MAX || (!failed && PyTuple_GET_ITEM(item, 3) != Py_False)) {
                PyErr_Clear();
                Py_DECREF(frame);
                Py_RETURN_NONE;
            }
        }
        put16(item_to, (uint32_t)status);
        put16(item_to + 2, failed ? FAILED : 0);
        put32(item_to + 4, (uint32_t)PyBytes_GET_SIZE(head));
        put32(item_to + 8, (uint32_t)PyBytes_GET_SIZE(body));
        memcpy(head_to, PyBytes_AS_STRING(head), (size_t)PyBytes_GET_SIZE(head));
        memcpy(body_to, PyBytes_AS_STRING(body), (size_t)PyBytes_GET_SIZE(body));
        head_to += PyBytes_GET_SIZE(head);
        body_to += PyBytes_GET_SIZE(body);
    }
    return frame;
}

static PyObject *encode_requests(PyObject *self, PyObject *arguments) {
    PyObject *items;
    Py_ssize_t most;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "O!n:encode_requests", &PyTuple_Type, &items, &most))
        return NULL;
    return encode(items, REQUESTS, 0.0, most);
}

static PyObject *encode_replies(PyObject *self, PyObject *arguments) {
    PyObject *items;
    double seconds;
    Py_ssize_t most;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "O!dn:encode_replies", &PyTuple_Type, &items, &seconds, &most))
        return NULL;
    return encode(items, REPLIES, seconds, most);
}

/* The items of a frame after its header; of type `made` (a tuple with status, head, body, failed) if that is not NULL,
 * else (head, body). None if the lengths do not add up. */
static PyObject *decode(Py_ssize_t count, const Py_buffer *view, PyTypeObject *made) {
    const char *const data = view->buf;
    if (count < 0 || count > view->len / ITEM)
        Py_RETURN_NONE;
    uint64_t heads = 0, bodies = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        heads += get32(data + i * ITEM + 4);
        bodies += get32(data + i * ITEM + 8);
    }
    if ((uint64_t)(ITEM * count) + heads + bodies != (uint64_t)view->len)
        Py_RETURN_NONE;
    const char *item = data, *head = data + ITEM * count, *body = head + heads;
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++, item += ITEM) {
        const Py_ssize_t head_length = get32(item + 4), body_length = get32(item + 8);
        PyObject *tuple = made ? made->tp_alloc(made, 4) : PyTuple_New(2);
        if (tuple == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, tuple);
        const int first = made != NULL;
        PyTuple_SET_ITEM(tuple, first, PyBytes_FromStringAndSize(head, head_length));
        PyTuple_SET_ITEM(tuple, first + 1, PyBytes_FromStringAndSize(body, body_length));
        if (made) {
            PyTuple_SET_ITEM(tuple, 0, PyLong_FromLong((long)get16(item)));
            PyTuple_SET_ITEM(tuple, 3, PyBool_FromLong((long)(get16(item + 2) & FAILED)));
        }
        if (PyErr_Occurred())
            Py_CLEAR(list);
        head += head_length;
        body += body_length;
    }
    return list;
}

static PyObject *decode_requests(PyObject *self, PyObject *arguments) {
    Py_ssize_t count;
    Py_buffer view;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "ny*:decode_requests", &count, &view))
        return NULL;
    PyObject *list = decode(count, &view, NULL);
    PyBuffer_Release(&view);
    return list;
}

static PyObject *decode_replies(PyObject *self, PyObject *arguments) {
    Py_ssize_t count;
    Py_buffer view;
    PyObject *made;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "ny*O!:decode_replies", &count, &view, &PyType_Type, &made))
        return NULL;
    PyObject *list = NULL;
    if (PyType_IsSubtype((PyTypeObject *)made, &PyTuple_Type))
        list = decode(count, &view, (PyTypeObject *)made);
    else
        PyErr_SetString(PyExc_TypeError, "a reply is a tuple");
    PyBuffer_Release(&view);
    return list;
}

static PyMethodDef functions[] = {
    {"plain_request", (PyCFunction)(void (*)(void))plain_request, METH_FASTCALL, NULL},
    {"encode_requests", encode_requests, METH_VARARGS, NULL},
    {"encode_replies", encode_replies, METH_VARARGS, NULL},
    {"decode_requests", decode_requests, METH_VARARGS, NULL},
    {"decode_replies", decode_replies, METH_VARARGS, NULL},
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
