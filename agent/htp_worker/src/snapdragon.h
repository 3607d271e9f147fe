// Which Snapdragon chips have an HTP: the table of agent/backends/snapdragon.py (a test compares them).
#pragma once

#include <array>

namespace mobifarm {

struct Chip {
  const char* model;  // ro.soc.model
  int soc_id;         // Qualcomm's number for it
};

constexpr std::array<Chip, 25> kChips{{
    {"SM8350", 30},
    {"SM7325", 35},
    {"SM7350", 32},
    {"QCS6490", 93},
    {"SM7450", 41},
    {"SM7435", 61},
    {"SM6450", 50},
    {"SM6475", 76},
    {"SM7475", 54},
    {"SM8450", 36},
    {"SM8475", 42},
    {"SM8550", 43},
    {"QCS8550", 66},
    {"SC8380XP", 60},
    {"SM8635", 68},
    {"SM7675", 70},
    {"SM8735", 85},
    {"SM7750", 86},
    {"SM7550", 64},
    {"SM7635", 73},
    {"SM6650", 74},
    {"SM8650", 57},
    {"SM8750", 69},
    {"SM8845", 97},
    {"SM8850", 87},
}};

}  // namespace mobifarm
