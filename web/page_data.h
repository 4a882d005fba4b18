/*
 * The files of the page, as bytes: page_data.c is made from them by embed.py.
 */
#ifndef TASUKI_WEB_PAGE_DATA_H
#define TASUKI_WEB_PAGE_DATA_H

#include "daemon/base/slice.h"

extern const struct slice page_html, page_css, page_js, page_icon, page_openapi;

#endif
