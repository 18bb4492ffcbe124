// TEST DOUBLE. A plugin library by what it says of itself, and nothing in it.
#define QDBEV_TEXT_OF(number) #number
#define QDBEV_TEXT(macro) QDBEV_TEXT_OF(macro)

extern "C" const char* qdbev_describe()
{
    return "{\"version\": \"0.1.0\", \"abi\": 1, \"cuda_architectures\": \"80,87-real\", \"tensorrt\": \""  //
        QDBEV_TEXT(QDBEV_TRT_DOUBLE_MAJOR) ".6.0\", \"ops\": []}";
}
